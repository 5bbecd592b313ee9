"""Knows what the encoder hears on a GPU: all performances in its memory, and batches of crops of them."""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from training.batches import speaker_offset
from training.crowd import Role
from training.features import (
    FRAME,
    HOPS_PER_FRAME,
    MEL_BANDS,
    SAMPLE_RATE_HZ,
    between_bands,
    frame_features,
    log_mel_patches,
)
from training.quantizer import Quantizer, active_frames, level_at
from training.speakers import DEFAULT

# How crops are shared among kinds of speech.
KIND_SHARES = {
    "default": 0.2, "whisper": 0.08, "named": 0.22, "crowd": 0.27, "espeak": 0.13, "continuum": 0.05,
    "language": 0.05,
}  # fmt: skip
HELD = "held"
# Where a crop is cut out of an utterance, frames so near to the cut are not judged.
_MARGIN = 6
_COLOURED_SHARE, _GAIN_SHARE, _NOISE_SHARE, _LOW_PASS_SHARE = 0.4, 0.2, 0.15, 0.06
_GAIN_DB, _NOISE_DB, _CUT_HZ = (-2.0, 2.0), (-52.0, -34.0), (4200.0, 7500.0)


# Mean spectrum [64] of an utterance's active frames, their number, mean height of pitch in semitones.
Means = tuple[torch.Tensor, int, float]


@dataclass(frozen=True)
class Heard:
    """Crops: waveforms [B, 960 F], latents [B, F, 128], speakers' places [B, 24], frames to judge."""

    waveforms: torch.Tensor
    latents: torch.Tensor
    places: torch.Tensor
    judged: torch.Tensor


@dataclass(frozen=True)
class Held:
    """One utterance kept for scores: whose, its waveform [960 T], latents [T, 128] and its place."""

    speaker: str
    waveform: torch.Tensor
    latents: torch.Tensor
    place: torch.Tensor


class Hall:
    """All performances so far, on a device: samples, pitch and phase; mel is taken from what is played."""

    def __init__(self, work_dir: Path, quantizer: Quantizer, roles: list[Role], device: torch.device) -> None:
        self._work_dir, self._quantizer, self._device = work_dir, quantizer.to(device), device
        self._waiting = list(roles)
        self._samples = torch.zeros(0, FRAME, dtype=torch.int16, device=device)
        self._pitch_hz = torch.zeros(0, HOPS_PER_FRAME, device=device)
        self._phase = torch.zeros(0, 2, device=device)
        # Of each utterance: first frame, frames, speaker.
        self._spans = np.zeros((0, 3), dtype=np.int64)
        self._by_kind: dict[str, list[int]] = {kind: [] for kind in (*KIND_SHARES, HELD)}
        # Mean spectrum, its frames, mean height of pitch of the default voice's common sentences.
        self._usual: dict[int, Means] = {}
        self.speakers: list[str] = []
        self._heard: list[int] = []
        self._spectra = torch.zeros(0, MEL_BANDS, device=device)
        self._levels = torch.zeros(0, device=device)

    @property
    def hours(self) -> float:
        """How much there is to hear."""
        return len(self._samples) * FRAME / SAMPLE_RATE_HZ / 3600

    @property
    def tuned(self) -> bool:
        """Whether the default voice has said all common sentences, which others are compared on."""
        return not any(role.speaker.name == DEFAULT and role.common for role in self._waiting)

    def take_in(self, most: int = 40) -> int:
        """Takes in up to `most` files that were finished meanwhile; says how many."""
        ready = [role for role in self._waiting if self._path(role).exists()]
        # Everybody else is compared with the default voice.
        common = [role for role in ready if role.speaker.name == DEFAULT and role.common]
        chosen = (ready if self.tuned else common)[:most]
        if chosen:
            new = [self._read(role) for role in chosen]
            columns = zip((self._samples, self._pitch_hz, self._phase), zip(*new, strict=True), strict=True)
            self._samples, self._pitch_hz, self._phase = (torch.cat([old, *parts]) for old, parts in columns)
        taken = {role.name for role in chosen}
        self._waiting = [role for role in self._waiting if role.name not in taken]
        return len(chosen)

    def _path(self, role: Role) -> Path:
        return self._work_dir / "crowd" / f"{role.name}.npz"

    def _read(self, role: Role) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with np.load(self._path(role)) as data:
            offsets, common = data["offsets"], data["common"].tolist()
            samples = torch.from_numpy(data["samples"]).to(self._device)
            whispered = torch.from_numpy(data["whispered"]).to(self._device).reshape(-1, HOPS_PER_FRAME)
        mel, pitch_hz, phase = frame_features(samples.float() / 32768)
        pitch_hz = pitch_hz.masked_fill(whispered, 0.0)
        phase = phase.masked_fill(whispered.any(1, keepdim=True), 0.0)
        sums = [means(mel[a:b], pitch_hz[a:b]) for a, b in pairwise(offsets)]
        if role.speaker.name == DEFAULT:
            self._usual |= {number: part for number, part in zip(common, sums, strict=True) if number >= 0}
        first = int(self._spans[-1, :2].sum()) if len(self._spans) else 0
        known = [(part, n) for n, part in zip(common, sums, strict=True) if n in self._usual]
        speaker = self._speaker(role, known)
        quiet = whispered.any(1).cpu().numpy()
        for index, (begin, end) in enumerate(pairwise(offsets)):
            whisper = role.kind != HELD and quiet[begin:end].mean() > 0.5
            self._by_kind["whisper" if whisper else role.kind].append(len(self._spans) + index)
        spans = np.stack([first + offsets[:-1], np.diff(offsets), np.full(len(offsets) - 1, speaker)], 1)
        self._spans = np.concatenate([self._spans, spans])
        return samples.reshape(-1, FRAME), pitch_hz, phase

    def _speaker(self, role: Role, sums: list[tuple[Means, int]]) -> int:
        """The speaker's number; a new one gets an offset, known ones have had theirs measured already."""
        name = role.speaker.name
        if name in self.speakers:
            return self.speakers.index(name)
        if (self._work_dir / "means" / f"{name}.npy").exists():
            offset = speaker_offset(self._work_dir, name)
            spectrum, semitones = offset.spectrum.float().to(self._device), offset.semitones
        else:
            spectrum, semitones = difference([part for part, _ in sums], [self._usual[n] for _, n in sums])
        if role.kind != HELD:
            self._heard.append(len(self.speakers))
        self.speakers.append(name)
        self._spectra = torch.cat([self._spectra, spectrum[None]])
        self._levels = torch.cat([self._levels, torch.tensor([float(level_at(semitones))]).to(self._device)])
        return len(self.speakers) - 1

    def held(self) -> list[Held]:
        """The utterances that are kept for scores."""
        out = []
        for first, frames, speaker in self._spans[self._by_kind[HELD]].tolist():
            waveform = self._samples[first : first + frames].reshape(-1).float() / 32768
            latents = self._quantizer.latents_of(
                log_mel_patches(waveform)[None], self._pitch_hz[None, first : first + frames],
                self._phase[None, first : first + frames], self._spectra[speaker, None],
                self._levels[speaker, None],
            )[0]  # fmt: skip
            place = self._quantizer.place(self._spectra[speaker])
            out.append(Held(self.speakers[speaker], waveform, latents, place))
        return out

    def draw(self, count: int, frames: int, rng: np.random.Generator) -> Heard:
        """`count` crops of `frames` frames, some of them changed in timbre, level, noise or band."""
        kinds = [kind for kind in KIND_SHARES if self._by_kind[kind]]
        shares = np.array([KIND_SHARES[kind] for kind in kinds])
        drawn = rng.choice(len(kinds), count, p=shares / shares.sum())
        rows = [self._by_kind[kinds[kind]][rng.integers(len(self._by_kind[kinds[kind]]))] for kind in drawn]
        first, length, speaker = self._spans[rows].T
        latest = (length - frames).clip(min=0)
        place = rng.random(count)
        start = np.where(place < 0.2, 0, np.where(place > 0.8, latest, rng.integers(0, latest + 1)))
        inside = start[:, None] + np.arange(frames)
        sounds = inside < length[:, None]
        near = np.arange(frames)[None]
        judged = sounds & ((near >= _MARGIN) | (start == 0)[:, None])
        judged &= (near < frames - _MARGIN) | (start + frames >= length)[:, None]
        index = torch.from_numpy(first[:, None] + np.minimum(inside, length[:, None] - 1)).to(self._device)
        within = torch.from_numpy(sounds).to(self._device)
        clean = (self._samples[index].float() / 32768 * within[..., None]).flatten(1)
        speakers = torch.from_numpy(speaker).to(self._device)
        change = self._change(count, rng)
        played, heard = _played(clean, change, rng)
        spectrum = self._spectra[speakers] + change
        latents = self._quantizer.latents_of(
            log_mel_patches(played), self._pitch_hz[index] * within[..., None],
            self._phase[index] * within[..., None], spectrum, self._levels[speakers],
        )  # fmt: skip
        places = self._quantizer.place(spectrum)
        return Heard(heard, latents, places, torch.from_numpy(judged).to(self._device))

    def _change(self, count: int, rng: np.random.Generator) -> torch.Tensor:
        """Changes of timbre [B, 64] as there are among speakers: part of a difference of two, or none."""
        left, right = (torch.from_numpy(rng.choice(self._heard, count)) for _ in range(2))
        part = rng.uniform(0.2, 1.0, count) * (rng.random(count) < _COLOURED_SHARE)
        parts = torch.from_numpy(part).float().to(self._device)
        return parts[:, None] * (self._spectra[left.to(self._device)] - self._spectra[right.to(self._device)])


def means(mel: torch.Tensor, pitch_hz: torch.Tensor) -> Means:
    """Those of an utterance's features, mel [T, 256] and pitch [T, 4]."""
    active = active_frames(mel)
    voiced = pitch_hz > 0
    height = 12 * pitch_hz.clamp(min=1).log2()[voiced].mean().item() if bool(voiced.any()) else 0.0
    number = int(active.sum())
    if not number:
        return mel.new_zeros(MEL_BANDS), 0, height
    return mel[active].reshape(-1, MEL_BANDS).mean(0), number, height


def difference(own: list[Means], usual: list[Means]) -> tuple[torch.Tensor, float]:
    """How a speaker differs from the default voice on the same sentences: spectrum [64] and semitones."""
    (spectrum, height), (other, other_height) = (
        (sum(s * n for s, n, _ in part) / sum(n for _, n, _ in part), np.mean([h for *_, h in part if h]))
        for part in (own, usual)
    )
    return spectrum - other, float(height - other_height)


def _played(
    clean: torch.Tensor, change: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops [B, n] through filters of `change` [B, 64] nats: as they are to be said, and as they are heard.

    What is heard may have lost its highest band and may be a little noisy.
    """
    count, samples = clean.shape
    device = clean.device

    def some(share: float, low: float, high: float, otherwise: float) -> torch.Tensor:
        values = np.where(rng.random(count) < share, rng.uniform(low, high, count), otherwise)
        return torch.from_numpy(values).float().to(device)[:, None]

    spectrum = torch.fft.rfft(clean)
    nats = between_bands(change, spectrum.shape[1])
    nats = nats + some(_GAIN_SHARE, *_GAIN_DB, 0.0) * (math.log(10) / 20)
    spectrum = spectrum * nats.exp()
    played = torch.fft.irfft(spectrum, samples)
    hz = torch.linspace(0, SAMPLE_RATE_HZ / 2, spectrum.shape[1], device=device)
    passed = torch.sigmoid((some(_LOW_PASS_SHARE, *_CUT_HZ, 1e6) - hz) / 80)
    heard = torch.fft.irfft(spectrum * passed, samples)
    loudness = heard.square().mean(1, keepdim=True).sqrt()
    noise = 10 ** (some(_NOISE_SHARE, *_NOISE_DB, -200.0) / 20)
    return played, heard + noise * loudness * torch.randn_like(heard)

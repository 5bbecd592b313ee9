"""Trains the codec's decoder (codes to waveform) and encoder (waveform to latents); both can resume."""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from torch import nn

from training.batches import read_codes, speaker_offset
from training.codec import Decoder, Encoder
from training.data import DEFAULT, LANGUAGES, NAMED, speaker_of
from training.features import (
    FRAME,
    HOPS_PER_FRAME,
    MEL_FLOOR,
    SAMPLE_RATE_HZ,
    between_bands,
    mel_filters,
)
from training.files import save_state
from training.quantizer import (
    LEVEL_DIMS,
    MEL_BOOKS,
    MEL_DIMS,
    PHASE_DIMS,
    PITCH_DIMS,
    SPEAKER_DIMS,
    Offset,
    Quantizer,
)
from training.schedules import held_then_falling
from training.synthesis import SAMPLE_RATE_HZ as SOURCE_RATE_HZ
from training.warm_start import start_decoder, start_encoder

# How crops are shared among kinds of speech.
KIND_SHARES = {"default": 0.3, "whisper": 0.1, "named": 0.33, "continuum": 0.22, "language": 0.05}
# How often the encoder hears a crop in another timbre.
COLOURED_SHARE = 0.5
_SOURCE_FRAME = FRAME * SOURCE_RATE_HZ // SAMPLE_RATE_HZ
_STFT_SIZES = (256, 512, 1024, 2048)
_PLACES = ("start", "anywhere", "anywhere", "end")
# A crop is judged two frames away from its edges, where the decoder sees zeros instead of neighbours.
# But where an utterance begins or ends it sees the same zeros; there it must be silent and must not click.
_INSIDE = {
    "start": slice(0, -2 * FRAME),
    "anywhere": slice(2 * FRAME, -2 * FRAME),
    "end": slice(2 * FRAME, None),
}
_EDGE = {"start": slice(0, 64), "end": slice(-64, None)}
_EDGE_WEIGHT = 20.0


@dataclass(frozen=True)
class Crops:
    """Some crops: waveforms [B, 960 F] at 24 kHz, codes [B, F, 8] and un-quantised latents [B, F, 128]."""

    waveforms: torch.Tensor
    codes: torch.Tensor
    latents: torch.Tensor


def kind_of(voice: str) -> str:
    """The kind of speech that a shard's utterances are, unless they are whispered."""
    if voice.startswith(DEFAULT):
        return "default"
    return "named" if voice in NAMED else "language" if voice in LANGUAGES else "continuum"


class CropSampler:
    """Draws random crops of all kinds of speech from the first shard of every voice."""

    def __init__(
        self, work_dir: Path, quantizer: Quantizer, seed: int, shards: int = 1, coloured: float = 0.0
    ) -> None:
        """`coloured`: which share of the crops gets another timbre by a filter (see `recoloured`)."""
        self._quantizer, self._coloured = quantizer, coloured
        self._offsets: dict[str, Offset] = {}
        self._rng = np.random.default_rng(seed)
        self._spans: dict[str, list[tuple[dict[str, Any], int]]] = {kind: [] for kind in KIND_SHARES}
        for path in sorted((work_dir / "shards").glob("*_[0-9][0-9][0-9][0-9].npz")):
            voice, number = path.stem.split("_")
            # The default voice's first shard is kept for validation.
            if int(number) >= shards + (voice == DEFAULT) * 2 or path.stem == f"{DEFAULT}_0000":
                continue
            with np.load(path) as data:
                names = ("offsets", "samples", "mel", "pitch_hz", "phase")
                shard = {name: data[name] for name in names} | {"codes": read_codes(path, quantizer)}
                shard["speaker"] = speaker_of(path)
                self._offsets[speaker_of(path)] = speaker_offset(work_dir, speaker_of(path))
                texts = data["texts"].tolist()
            for index, text in enumerate(texts):
                kind = "whisper" if "whispering" in text else kind_of(voice)
                self._spans[kind].append((shard, index))
        self._kinds = [kind for kind, spans in self._spans.items() if spans]

    def draw(self, count: int, frames: int, place: str = "anywhere") -> Crops:
        """`count` crops of `frames` frames: from "anywhere", the "start" or the "end" of their utterances."""
        crops = [self._crop(frames, place) for _ in range(count)]
        waveforms, codes, latents = zip(*crops, strict=True)
        return Crops(torch.stack(waveforms), torch.stack(codes), torch.stack(latents))

    def _crop(self, frames: int, place: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = self._rng
        shares = np.array([KIND_SHARES[kind] for kind in self._kinds])
        spans = self._spans[str(rng.choice(self._kinds, p=shares / shares.sum()))]
        while True:
            shard, index = spans[rng.integers(len(spans))]
            first, last = shard["offsets"][index], shard["offsets"][index + 1]
            if last - first >= frames:
                break
        start = int(rng.integers(first, last - frames + 1))
        start = {"anywhere": start, "start": int(first), "end": int(last - frames)}[place]
        span = slice(start, start + frames)
        # Resampling with one frame more on both sides keeps the filter's edges out of the crop.
        left, right = min(1, start - first), min(1, last - start - frames)
        pcm = shard["samples"][(start - left) * _SOURCE_FRAME : (start + frames + right) * _SOURCE_FRAME]
        wave = soxr.resample(pcm.astype(np.float32) / 32768.0, SOURCE_RATE_HZ, SAMPLE_RATE_HZ)
        wave = torch.from_numpy(wave[left * FRAME : (left + frames) * FRAME])
        mel, pitch_hz, phase = (
            torch.from_numpy(shard[n][span]).float() for n in ("mel", "pitch_hz", "phase")
        )
        offset = self._offsets[shard["speaker"]]
        if rng.random() < self._coloured:
            wave, mel, offset = recoloured(wave, mel, offset, self._change(rng))
        latents = self._quantizer.latents(mel, pitch_hz, phase, offset)
        return wave, torch.from_numpy(shard["codes"][span]).long(), latents

    def _change(self, rng: np.random.Generator) -> torch.Tensor:
        """A change of timbre as there is among speakers: part of the difference of two of them."""
        left, right = (self._offsets[name].spectrum for name in rng.choice(sorted(self._offsets), 2))
        return rng.uniform(0.2, 1.0) * (left - right)


def recoloured(
    wave: torch.Tensor, mel: torch.Tensor, offset: Offset, change: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, Offset]:
    """Waveform, log-mel patches and offset of the same speech through a filter, `change` [64 bands] in nats.

    So the encoder hears speakers that nobody synthesised. `latents` takes the offset from the patches again,
    so that the mel latents stay what they were.
    """
    spectrum = torch.fft.rfft(wave)
    filtered = torch.fft.irfft(spectrum * between_bands(change, len(spectrum)).exp(), len(wave))
    moved = (mel + change.repeat(HOPS_PER_FRAME)).clamp(min=math.log(MEL_FLOOR))
    return filtered, moved, replace(offset, spectrum=offset.spectrum + change)


def spectral_losses(output: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Log-magnitude and convergence at four resolutions, mel distance, complex distance below 1.5 kHz."""
    magnitude = mel = phase = torch.zeros(())
    for size in _STFT_SIZES:
        window = torch.hann_window(size)
        got, want = (
            torch.stft(x, size, size // 4, window=window, return_complex=True) for x in (output, target)
        )
        got_abs, want_abs = (s.abs().clamp(min=2e-5 * size) for s in (got, want))
        magnitude = magnitude + (got_abs.log() - want_abs.log()).abs().mean()
        magnitude = magnitude + 0.5 * (got_abs - want_abs).norm() / want_abs.norm()
        if size == 1024:
            filters = mel_filters(80, size)
            mel = ((filters @ got_abs).log() - (filters @ want_abs).log()).abs().mean()
        if size in (512, 1024):
            top = size * 1500 // SAMPLE_RATE_HZ
            phase = (
                phase + (got[:, :top] - want[:, :top]).abs().pow(2).sum().sqrt() / want[:, :top].abs().norm()
            )
    return {"magnitude": magnitude / len(_STFT_SIZES), "mel": mel, "phase": phase / 2}


@dataclass(frozen=True)
class CodecSchedule:
    """Steps of decoder and encoder, and the shape of a step."""

    decoder_steps: int
    encoder_steps: int
    batch: int = 8
    frames: int = 26
    peak_rate: float = 1e-3
    seed: int = 2

    def rate(self, step: int, steps: int) -> float:
        """Learning rate: 50 steps of warm-up, hold for half, cosine to 2 %."""
        shape = held_then_falling(step / steps, hold=0.5, floor=0.02)
        return self.peak_rate * min(1.0, (step + 1) / 50) * shape


def decoder_input(quantizer: Quantizer, codes: torch.Tensor) -> torch.Tensor:
    """Latents of codes [B, F, 8]; now and then with fewer mel books or no phase, so that errors hurt less."""
    latents = quantizer.decode(codes)
    for row in range(len(codes)):
        chance = torch.rand(()).item()
        if chance < 0.15:
            few = quantizer.decode(codes[row], int(torch.randint(2, MEL_BOOKS, ()).item()))
            latents[row, :, MEL_DIMS] = few[:, MEL_DIMS]
        elif chance < 0.22:
            latents[row, :, PHASE_DIMS] = 0
    return latents


def decoder_losses(
    decoder: Decoder, quantizer: Quantizer, crops: Crops, place: str
) -> dict[str, torch.Tensor]:
    """Weighted losses of the decoder's output, with the utterance's edge if the crops have one."""
    with torch.autocast("cpu", torch.bfloat16):
        output = decoder(decoder_input(quantizer, crops.codes)).float()
    inside = _INSIDE[place]
    parts = spectral_losses(output[:, inside], crops.waveforms[:, inside])
    losses = {"magnitude": parts["magnitude"], "mel": 2 * parts["mel"], "phase": 0.5 * parts["phase"]}
    if place in _EDGE:
        edge = _EDGE[place]
        losses["edge"] = _EDGE_WEIGHT * (output[:, edge] - crops.waveforms[:, edge]).abs().mean()
    return losses


def encoder_losses(
    encoder: Encoder, quantizer: Quantizer, crops: Crops, place: str
) -> dict[str, torch.Tensor]:
    """Squared errors of the latents, each group of dimensions relative to its own power, weighted."""
    with torch.autocast("cpu", torch.bfloat16):
        output = encoder(crops.waveforms)
    inner = {"start": slice(0, -2), "anywhere": slice(2, -2), "end": slice(2, None)}[place]
    error = (output.float() - crops.latents).square()[:, inner]
    power = crops.latents.square()[:, inner]
    phase_dims = slice(PHASE_DIMS.start, LEVEL_DIMS.start)
    # Dimensions, weight, and a floor of the power: most batches have many frames of the default voice.
    groups = {
        "mel": (MEL_DIMS, 1.0, 1e-3), "pitch": (PITCH_DIMS, 0.5, 1e-3), "phase": (phase_dims, 0.2, 1e-3),
        "timbre": (SPEAKER_DIMS, 2.0, 1e-3), "level": (LEVEL_DIMS, 0.5, 0.2),
    }  # fmt: skip
    return {
        name: weight * error[..., dims].mean() / power[..., dims].mean().clamp(min=floor)
        for name, (dims, weight, floor) in groups.items()
    }


LOSSES = {"decoder": decoder_losses, "encoder": encoder_losses}


def _train(work_dir: Path, name: str, module: nn.Module, schedule: CodecSchedule, steps: int) -> None:
    """Runs one of the two trainings to its end, from its saved state when there is one."""
    path, step = work_dir / f"{name}.pt", 0
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=schedule.peak_rate, betas=(0.8, 0.99), weight_decay=0.0
    )
    if path.exists():
        state = torch.load(path)
        if "optimizer" not in state:
            # It was trained by the clock.
            return
        module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    quantizer = Quantizer.load(work_dir / "quantizer.pt")
    coloured = COLOURED_SHARE if name == "encoder" else 0.0
    sampler = CropSampler(work_dir, quantizer, schedule.seed + step, coloured=coloured)
    torch.manual_seed(schedule.seed + step)
    started = saved_at = time.monotonic()
    while step < steps:
        place = _PLACES[step % len(_PLACES)]
        parts = LOSSES[name](module, quantizer, sampler.draw(schedule.batch, schedule.frames, place), place)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 2.0)
        optimizer.param_groups[0]["lr"] = schedule.rate(step, steps)
        optimizer.step()
        step += 1
        if step % 50 in (1, 2):
            shown = " ".join(f"{key} {float(value.detach()):.3f}" for key, value in parts.items())
            print(f"{name} {step} {place} {time.monotonic() - started:.0f}s {shown}", flush=True)
        if time.monotonic() - saved_at > 120 or step == steps:
            saved_at = time.monotonic()
            save_state(path, model=module.state_dict(), optimizer=optimizer.state_dict(), step=step)


def train_decoder(work_dir: Path, schedule: CodecSchedule) -> None:
    """Trains the decoder to the end."""
    torch.manual_seed(schedule.seed)
    decoder = Decoder()
    start_decoder(work_dir, decoder, Quantizer.load(work_dir / "quantizer.pt"))
    _train(work_dir, "decoder", decoder, schedule, schedule.decoder_steps)


def train_encoder(work_dir: Path, schedule: CodecSchedule) -> None:
    """Trains the encoder to the end."""
    torch.manual_seed(schedule.seed)
    encoder = Encoder()
    start_encoder(work_dir, encoder)
    _train(work_dir, "encoder", encoder, schedule, schedule.encoder_steps)

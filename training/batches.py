"""Knows how utterances become padded training batches, with and without a reference prompt."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from training.data import DEFAULT, UNLABELLED, Job, plan, read_shard, shard_path, speaker_of
from training.features import FRAME, MEL_BANDS, SAMPLE_RATE_HZ
from training.files import whole
from training.prompts import BEGIN_OF_CODES, BOOKS, PLACEHOLDER, build_prompt, delay
from training.quantizer import CODES, PHASE_BOOK, SPEAKER_BOOK, Offset, Quantizer, active_frames
from training.scripts import JOINT_S
from training.texts import HELD_OUT, held_out_everyday

IGNORED = -100
VALIDATION = Job(DEFAULT, 0, 0, 0, 0)
SHORTEST_REFERENCE, LONGEST_REFERENCE = 38, 100
# Who speaks, and how high, is decided by the first codes that say so; all later ones repeat them. A decision
# is one code among hundreds, so it counts for as much as the rest of an utterance.
_DECISIONS, _DECISION_WEIGHT = 2, 25.0


@dataclass(frozen=True)
class Example:
    """One utterance of a voice: text, codes [T, 8] and phoneme labels [T]."""

    voice: str
    text: str
    codes: np.ndarray
    phonemes: np.ndarray


class Batch(NamedTuple):
    """Padded inputs, and labels of those positions that have any; small integers, so that copies are cheap.

    `ids` [B, S], -1 at audio rows; `rows` [B, S, 8]; `spoken` [N] are the flat positions with labels, whose
    `targets` [N, 8] are the next rows (IGNORED where none), `weights` [N, 8] say how much each counts, and
    `phonemes` [N, 2] are this frame's and the next one.
    """

    ids: torch.Tensor
    rows: torch.Tensor
    spoken: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    phonemes: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same on a device; a copy from pinned memory does not wait."""
        return Batch(*(part.to(device, non_blocking=True) for part in self))


# One sequence: ids [S], rows [S, 8], row targets [S, 8] and phoneme targets [S, 2].
Sequence = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def speaker_means(work_dir: Path, speaker: str) -> tuple[np.ndarray, float]:
    """Mean log-mel spectrum [64] of the speaker's active frames, mean of the logarithm of pitch; kept."""
    cache = work_dir / "means" / f"{speaker}.npy"
    if not cache.exists():
        cache.parent.mkdir(exist_ok=True)
        shard = read_shard(shard_path(work_dir, Job(speaker, 0, 0, 0, 0)))
        mel = torch.from_numpy(shard.mel[:30_000]).float()
        pitch_hz = shard.pitch_hz[:30_000].astype(np.float32)
        height = np.log(pitch_hz[pitch_hz > 0]).mean(keepdims=True)
        spectrum = mel[active_frames(mel)].reshape(-1, MEL_BANDS).mean(0).numpy()
        with whole(cache) as file:
            np.save(file, np.concatenate([spectrum, height]))
    means = np.load(cache)
    return means[:MEL_BANDS], float(means[MEL_BANDS])


def speaker_offset(work_dir: Path, speaker: str) -> Offset:
    """How the speaker differs from the default voice on average."""
    (spectrum, height), (usual, usual_height) = (speaker_means(work_dir, s) for s in (speaker, DEFAULT))
    return Offset(torch.from_numpy(spectrum - usual), 12 / math.log(2) * (height - usual_height))


def commonest_timbre(codes: np.ndarray) -> int:
    """The speaker code [T] that is said most, silence and the default voice (0) apart; 0 if there is none."""
    spoken = codes[codes > 0]
    return int(np.bincount(spoken).argmax()) if len(spoken) else 0


def said_timbres(work_dir: Path) -> list[int]:
    """The speaker codes that are the commonest one of some shard, rising, the default voice's (0) apart."""
    paths = (work_dir / "codes").glob("*.npy")
    return sorted({commonest_timbre(np.load(path)[:, SPEAKER_BOOK]) for path in paths} - {0})


def read_codes(path: Path, quantizer: Quantizer) -> np.ndarray:
    """Codes of a shard [T, 8], computed once and cached beside it."""
    cache = path.parent.parent / "codes" / f"{path.stem}.npy"
    if not cache.exists():
        cache.parent.mkdir(exist_ok=True)
        shard = read_shard(path)
        features = (torch.from_numpy(part).float() for part in (shard.mel, shard.pitch_hz, shard.phase))
        offset = speaker_offset(path.parent.parent, speaker_of(path))
        codes = quantizer.encode(quantizer.latents(*features, offset)).short().numpy()
        with whole(cache) as file:
            np.save(file, codes)
    return np.load(cache)


def load_examples(path: Path, quantizer: Quantizer) -> list[Example]:
    """The utterances of one shard, ready to train on."""
    codes = read_codes(path, quantizer)
    with np.load(path) as data:
        texts, offsets, phonemes = data["texts"].tolist(), data["offsets"], data["phonemes"]
    voice = speaker_of(path)
    spans = zip(texts, offsets[:-1], offsets[1:], strict=True)
    return [Example(voice, text, codes[a:b], phonemes[a:b]) for text, a, b in spans]


class ExamplePool:
    """All utterances by speaker; `refresh` takes in shards that were finished meanwhile."""

    def __init__(self, work_dir: Path, quantizer: Quantizer) -> None:
        self._work_dir, self._quantizer = work_dir, quantizer
        self._seen: set[Path] = {shard_path(work_dir, VALIDATION)}
        # Of these some are older than the test, and have texts of it.
        self._held_out = held_out_everyday(HELD_OUT)
        self._everyday = {shard_path(work_dir, job) for job in plan() if job.everyday > 0.5}
        self.by_speaker: dict[str, list[Example]] = {}
        self.by_kind: dict[str, list[Example]] = {}

    def refresh(self) -> None:
        """Adds new shards; the default voice's first one is kept for validation."""
        for path in sorted((self._work_dir / "shards").glob("*_[0-9][0-9][0-9][0-9].npz")):
            if path not in self._seen:
                self._seen.add(path)
                examples = [e for e in load_examples(path, self._quantizer) if not self.is_held_out(e.text)]
                self.by_speaker.setdefault(speaker_of(path), []).extend(examples)
                if speaker_of(path) == DEFAULT:
                    self.by_kind.setdefault(self._kind(path), []).extend(examples)

    def is_held_out(self, text: str) -> bool:
        """Whether a text has one of the everyday test in it."""
        return any(held_out in text for held_out in self._held_out)

    def _kind(self, path: Path) -> str:
        if path.stem.startswith(f"{DEFAULT}tags"):
            return "tagged"
        return "everyday" if path in self._everyday else "plain"

    def draw(self, speaker: str, rng: np.random.Generator) -> Example:
        """Any utterance of a speaker."""
        mine = self.by_speaker[speaker]
        return mine[rng.integers(len(mine))]


def phoneme_targets(phonemes: np.ndarray) -> np.ndarray:
    """This frame's phoneme and the next other one [T, 2] of labels [T]; 0 after the last."""
    if phonemes[0] == UNLABELLED:
        return np.full((len(phonemes), 2), IGNORED)
    now = phonemes.astype(np.int64)
    changes = np.flatnonzero(now[1:] != now[:-1]) + 1
    following = np.append(now[changes], 0)[np.searchsorted(changes, np.arange(len(now)), side="right")]
    return np.stack([now, following], 1)


def joined(parts: list[Example]) -> Example:
    """Several utterances as one, with the silence between them that joined scripts have."""
    # As in `Studio.perform`: trimmed utterances bring 0.24 s of their own.
    gap = round((JOINT_S - 0.24) * SAMPLE_RATE_HZ / FRAME)
    codes, phonemes = [parts[0].codes], [parts[0].phonemes]
    for part in parts[1:]:
        codes += [codes[-1][-1:].repeat(gap, 0), part.codes]
        phonemes += [phonemes[-1][-1:].repeat(gap, 0), part.phonemes]
    text = " ".join(part.text for part in parts)
    return Example(parts[0].voice, text, np.concatenate(codes), np.concatenate(phonemes))


def sequence(
    example: Example,
    reference: np.ndarray | None = None,
    reference_text: str | None = None,
    seen: np.ndarray | None = None,
) -> Sequence:
    """One utterance; `seen` [T, 8] are codes that the model reads as its past instead of the true ones."""
    prompt = build_prompt(example.text, reference, reference_text)
    rows = delay(example.codes.astype(np.int64))
    before, length = len(prompt.ids), len(prompt.ids) + len(rows) - 1
    ids = np.full(length, -1, dtype=np.int64)
    ids[:before] = np.where(prompt.ids == PLACEHOLDER, -1, prompt.ids)
    inputs = np.zeros((length, BOOKS), dtype=np.int64)
    inputs[:before][prompt.ids == PLACEHOLDER] = prompt.reference_rows
    inputs[before:] = (rows if seen is None else delay(seen))[:-1]
    targets = np.full((length, BOOKS), IGNORED, dtype=np.int64)
    targets[before - 1 :] = np.where(rows == BEGIN_OF_CODES, IGNORED, rows)
    phonemes = np.zeros((length, 2), dtype=np.int64)
    frames = len(example.codes)
    phonemes[before - 1 : before - 1 + frames] = phoneme_targets(example.phonemes)
    return ids, inputs, targets, phonemes


def code_weights(targets: torch.Tensor) -> torch.Tensor:
    """How much each target [B, S, 8] counts: a sequence's first speaker and phase codes more than one."""
    weights = torch.ones(targets.shape)
    for book in (SPEAKER_BOOK, PHASE_BOOK):
        says = (targets[..., book] > 0) & (targets[..., book] < CODES)
        weights[..., book][says & (says.cumsum(1) <= _DECISIONS)] = _DECISION_WEIGHT
    return weights


def collate(parts: list[Sequence]) -> Batch:
    """Right-pads sequences to one length."""
    longest = max(len(part[0]) for part in parts)

    def pad(index: int, fill: int) -> torch.Tensor:
        out = np.full((len(parts), longest, *parts[0][index].shape[1:]), fill, dtype=np.int16)
        for row, part in enumerate(parts):
            out[row, : len(part[index])] = part[index]
        return torch.from_numpy(out)

    targets = pad(2, IGNORED)
    spoken = (targets[..., 0] != IGNORED).flatten().nonzero()[:, 0].int()
    labels = (targets, code_weights(targets).to(torch.uint8), pad(3, 0))
    return Batch(pad(0, 0), pad(1, 0), spoken, *(part.flatten(0, 1)[spoken] for part in labels))

"""Knows how utterances become padded training batches, with and without a reference prompt."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from training.data import read_shard, shard_paths
from training.prompts import BEGIN_OF_CODES, BOOKS, PLACEHOLDER, build_prompt, delay
from training.quantizer import Quantizer

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """One utterance of a voice: text, codes [T, 8] and phoneme labels [T]."""

    voice: str
    text: str
    codes: np.ndarray
    phonemes: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Padded inputs (`ids` [B, S], -1 at audio rows; `rows` [B, S, 8]) and labels (IGNORED where none)."""

    ids: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor
    phonemes: torch.Tensor


def read_codes(path: Path, quantizer: Quantizer) -> np.ndarray:
    """Codes of a shard [T, 8], computed once and cached beside it."""
    cache = path.parent.parent / "codes" / f"{path.stem}.npy"
    if not cache.exists():
        cache.parent.mkdir(exist_ok=True)
        shard = read_shard(path)
        features = (torch.from_numpy(part).float() for part in (shard.mel, shard.pitch_hz, shard.phase))
        temporary = cache.with_suffix(".tmp.npy")
        np.save(temporary, quantizer.encode(quantizer.latents(*features)).short().numpy())
        os.replace(temporary, cache)
    return np.load(cache)


def load_examples(path: Path, quantizer: Quantizer) -> list[Example]:
    """The utterances of one shard, ready to train on."""
    codes = read_codes(path, quantizer)
    with np.load(path) as data:
        texts, offsets, phonemes = data["texts"].tolist(), data["offsets"], data["phonemes"]
    voice = path.stem.split("_")[0]
    spans = zip(texts, offsets[:-1], offsets[1:], strict=True)
    return [Example(voice, text, codes[a:b], phonemes[a:b]) for text, a, b in spans]


class ExamplePool:
    """All utterances of some voices; `refresh` takes in shards that were finished meanwhile."""

    def __init__(self, work_dir: Path, voices: tuple[str, ...], quantizer: Quantizer, skip: int = 1) -> None:
        self._work_dir, self._voices, self._quantizer, self._skip = work_dir, voices, quantizer, skip
        self._seen: set[Path] = set()
        self.examples: list[Example] = []

    def refresh(self) -> None:
        """Adds new shards; the first `skip` of each voice are kept for validation."""
        for voice in self._voices:
            for path in shard_paths(self._work_dir, voice)[self._skip :]:
                if path not in self._seen:
                    self._seen.add(path)
                    self.examples += load_examples(path, self._quantizer)


def _next_phoneme(phonemes: np.ndarray) -> np.ndarray:
    following = phonemes.astype(np.int64).copy()
    upcoming = 0
    for index in range(len(phonemes) - 1, -1, -1):
        if index + 1 < len(phonemes) and phonemes[index + 1] != phonemes[index]:
            upcoming = int(phonemes[index + 1])
        following[index] = upcoming
    return following


def _sequence(
    example: Example, reference: np.ndarray | None = None, reference_text: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """ids [S], rows [S, 8], row targets [S, 8] and phoneme targets [S, 2] of one utterance."""
    prompt = build_prompt(example.text, reference, reference_text)
    rows = delay(example.codes.astype(np.int64))
    before, length = len(prompt.ids), len(prompt.ids) + len(rows) - 1
    ids = np.full(length, -1, dtype=np.int64)
    ids[:before] = np.where(prompt.ids == PLACEHOLDER, -1, prompt.ids)
    inputs = np.zeros((length, BOOKS), dtype=np.int64)
    inputs[:before][prompt.ids == PLACEHOLDER] = prompt.reference_rows
    inputs[before:] = rows[:-1]
    targets = np.full((length, BOOKS), IGNORED, dtype=np.int64)
    targets[before - 1 :] = np.where(rows == BEGIN_OF_CODES, IGNORED, rows)
    phonemes = np.zeros((length, 2), dtype=np.int64)
    frames = len(example.codes)
    phonemes[before - 1 : before - 1 + frames, 0] = example.phonemes
    phonemes[before - 1 : before - 1 + frames, 1] = _next_phoneme(example.phonemes)
    return ids, inputs, targets, phonemes


def collate(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> Batch:
    """Right-pads sequences to one length."""
    longest = max(len(part[0]) for part in parts)

    def pad(index: int, fill: int) -> torch.Tensor:
        out = np.full((len(parts), longest, *parts[0][index].shape[1:]), fill, dtype=np.int64)
        for row, part in enumerate(parts):
            out[row, : len(part[index])] = part[index]
        return torch.from_numpy(out)

    return Batch(pad(0, 0), pad(1, 0), pad(2, IGNORED), pad(3, 0))


class ReferenceBank:
    """Neural-encoder codes of 2 to 4 s utterances by voice, for reference prompts."""

    def __init__(self, folder: Path) -> None:
        self._by_voice: dict[str, list[tuple[str, np.ndarray]]] = {}
        for path in sorted(folder.glob("*.npz")):
            with np.load(path) as data:
                texts, offsets, codes = data["texts"].tolist(), data["offsets"], data["codes"]
            spans = zip(texts, offsets[:-1], offsets[1:], strict=True)
            entries = [(text, codes[a:b]) for text, a, b in spans if 38 <= b - a <= 110]
            self._by_voice.setdefault(path.stem.split("_")[0], []).extend(entries)

    def draw(self, voice: str, rng: np.random.Generator) -> tuple[np.ndarray, str | None]:
        """A reference of that voice; half the time with its transcript."""
        entries = self._by_voice[voice]
        text, codes = entries[rng.integers(len(entries))]
        return codes.astype(np.int64), text if rng.random() < 0.5 else None


def batches(
    pool: ExamplePool, bank: ReferenceBank | None, reference_share: float, tokens: int, seed: int
) -> Iterator[Batch]:
    """Endless batches of about `tokens` positions; voices other than slt always come with a reference."""
    rng = np.random.default_rng(seed)
    while True:
        pool.refresh()
        zero_shot = [index for index, example in enumerate(pool.examples) if example.voice == "slt"]
        sequences = []
        for _ in range(1200):
            if bank is not None and rng.random() < reference_share:
                voice = str(rng.choice(["slt", "rms", "awb", "kal16"]))
                candidates = [e for e in (pool.examples[i] for i in rng.integers(len(pool.examples), size=60))
                              if e.voice == voice]  # fmt: skip
                if candidates:
                    sequences.append(_sequence(candidates[0], *bank.draw(voice, rng)))
                continue
            sequences.append(_sequence(pool.examples[zero_shot[rng.integers(len(zero_shot))]]))
        sequences.sort(key=lambda part: len(part[0]))
        groups: list[list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]] = [[]]
        for sequence in sequences:
            if groups[-1] and (len(groups[-1]) + 1) * len(sequence[0]) > tokens:
                groups.append([])
            groups[-1].append(sequence)
        for index in rng.permutation(len(groups)):
            yield collate(groups[index])

"""Knows how utterances become padded training batches, with and without a reference prompt."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from training.data import CONTINUUM, DEFAULT, UNLABELLED, Job, read_shard, shard_path, speaker_of
from training.espeak import LANGUAGES
from training.features import FRAME, HOPS_PER_FRAME, MEL_BANDS, SAMPLE_RATE_HZ
from training.prompts import BEGIN_OF_CODES, BOOKS, PLACEHOLDER, build_prompt, delay
from training.quantizer import (
    CODES,
    LEVEL_SEMITONES,
    PHASE_BOOK,
    PHASE_STEPS,
    PITCH_BOOK,
    PITCH_WEIGHT,
    SPEAKER_BOOK,
    TIMBRE_DIM,
    Offset,
    Quantizer,
    active_frames,
    at_level,
    level_of,
)
from training.speakers import NAMED

IGNORED = -100
VALIDATION = Job(DEFAULT, 0, 0, 0, 0)
# How a batch is mixed: the default voice without a reference, other languages, and the rest with references.
SHARES = {"default": 0.45, "language": 0.1}
# Of those with references: named speakers, the default voice, and otherwise the continuum.
NAMED_SHARE, DEFAULT_SHARE = 0.5, 0.06
# How often the timbre of reference and target is moved together to that of another speaker, and their pitch.
MOVED_SHARE, SHIFTED_SHARE = 0.3, 0.4
_FARTHEST_LEVELS = 3
# How many references are exact codes, as those of the named voices in the checkpoint are.
CLEAN_SHARE = 0.6
SHORTEST_REFERENCE, LONGEST_REFERENCE = 38, 100


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


def _speaker_means(work_dir: Path, speaker: str) -> tuple[np.ndarray, float]:
    """Mean log-mel spectrum [64] of the speaker's active frames, mean of the logarithm of pitch; kept."""
    cache = work_dir / "means" / f"{speaker}.npy"
    if not cache.exists():
        cache.parent.mkdir(exist_ok=True)
        shard = read_shard(shard_path(work_dir, Job(speaker, 0, 0, 0, 0)))
        mel = torch.from_numpy(shard.mel[:30_000]).float()
        pitch_hz = shard.pitch_hz[:30_000].astype(np.float32)
        height = np.log(pitch_hz[pitch_hz > 0]).mean(keepdims=True)
        spectrum = mel[active_frames(mel)].reshape(-1, MEL_BANDS).mean(0).numpy()
        temporary = cache.with_suffix(f".{os.getpid()}.npy")
        np.save(temporary, np.concatenate([spectrum, height]))
        os.replace(temporary, cache)
    means = np.load(cache)
    return means[:MEL_BANDS], float(means[MEL_BANDS])


def speaker_offset(work_dir: Path, speaker: str) -> Offset:
    """How the speaker differs from the default voice on average."""
    (spectrum, height), (usual, usual_height) = (_speaker_means(work_dir, s) for s in (speaker, DEFAULT))
    return Offset(torch.from_numpy(spectrum - usual), 12 / math.log(2) * (height - usual_height))


def read_codes(path: Path, quantizer: Quantizer) -> np.ndarray:
    """Codes of a shard [T, 8], computed once and cached beside it."""
    cache = path.parent.parent / "codes" / f"{path.stem}.npy"
    if not cache.exists():
        cache.parent.mkdir(exist_ok=True)
        shard = read_shard(path)
        features = (torch.from_numpy(part).float() for part in (shard.mel, shard.pitch_hz, shard.phase))
        temporary = cache.with_suffix(".tmp.npy")
        offset = speaker_offset(path.parent.parent, speaker_of(path))
        np.save(temporary, quantizer.encode(quantizer.latents(*features, offset)).short().numpy())
        os.replace(temporary, cache)
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
        self.by_speaker: dict[str, list[Example]] = {}

    def refresh(self) -> None:
        """Adds new shards; the default voice's first one is kept for validation."""
        for path in sorted((self._work_dir / "shards").glob("*_[0-9][0-9][0-9][0-9].npz")):
            if path not in self._seen:
                self._seen.add(path)
                mine = self.by_speaker.setdefault(speaker_of(path), [])
                mine += load_examples(path, self._quantizer)

    def draw(self, speaker: str, rng: np.random.Generator) -> Example:
        """Any utterance of a speaker."""
        mine = self.by_speaker[speaker]
        return mine[rng.integers(len(mine))]


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
    known = example.phonemes[0] != UNLABELLED
    phonemes[before - 1 : before - 1 + frames, 0] = example.phonemes if known else IGNORED
    phonemes[before - 1 : before - 1 + frames, 1] = _next_phoneme(example.phonemes) if known else IGNORED
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


class Timbres:
    """Moves speaker codes about: to near ones, as the neural encoder does, or all to another speaker."""

    def __init__(self, quantizer: Quantizer, near: int = 24) -> None:
        self._places = quantizer.books[SPEAKER_BOOK, :, :TIMBRE_DIM]
        self._near = torch.cdist(self._places, self._places).topk(near, largest=False).indices.numpy()

    def scattered(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Every code replaced by one of its neighbours; 0 stays."""
        scattered = self._near[codes, rng.integers(self._near.shape[1], size=codes.shape)]
        return np.where(codes == 0, 0, scattered)

    def moved(self, parts: list[np.ndarray], target: int) -> list[np.ndarray]:
        """Speaker codes of one speaker, shifted so that its most frequent one becomes `target`."""
        spoken = parts[0][parts[0] > 0]
        if len(spoken) == 0:
            return parts
        shift = self._places[target] - self._places[np.bincount(spoken).argmax()]
        nearest = torch.cdist(self._places + shift, self._places[1:]).argmin(1).numpy() + 1
        return [np.where(part > 0, nearest[part], 0) for part in parts]


class Pitches:
    """Shifts pitch codes by whole levels, and turns the phase codes with them."""

    def __init__(self, quantizer: Quantizer) -> None:
        self._entries = quantizer.books[PITCH_BOOK, :, : 2 * HOPS_PER_FRAME]
        hz, voiced = quantizer.pitches()
        self._hz = torch.where(voiced, hz, 0).numpy()
        self._tables = {
            levels: self._table(levels) for levels in range(-_FARTHEST_LEVELS, _FARTHEST_LEVELS + 1)
        }

    def _table(self, levels: int) -> np.ndarray:
        """For every pitch code the code [1024] of the same voicing, so many levels higher."""
        moved = self._entries.clone()
        moved[:, HOPS_PER_FRAME:] += PITCH_WEIGHT * math.log(2) / 12 * LEVEL_SEMITONES * levels
        table = torch.cdist(moved[1:], self._entries[1:]).argmin(1) + 1
        return np.concatenate([[0], table.numpy()])

    def shifted(self, codes: np.ndarray, levels: int) -> np.ndarray:
        """Codes [T, 8] of a voice so many levels higher, with phases that advance accordingly."""
        out, phase = codes.copy(), codes[:, PHASE_BOOK].astype(np.int64)
        out[:, PITCH_BOOK] = self._tables[levels][codes[:, PITCH_BOOK]]
        change_hz = (self._hz[out[:, PITCH_BOOK]] - self._hz[codes[:, PITCH_BOOK]]).mean(1)
        turns = (np.cumsum(change_hz) - change_hz / 2) * FRAME / SAMPLE_RATE_HZ
        turned = (phase - 1 + np.round(turns * PHASE_STEPS).astype(np.int64)) % PHASE_STEPS + 1
        out[:, PHASE_BOOK] = at_level(np.where(phase == 0, 0, turned), level_of(phase) + levels)
        return out


def roughened(codes: np.ndarray, timbres: Timbres, rng: np.random.Generator) -> np.ndarray:
    """Codes [T, 8] about as wrong as the neural encoder's: for references before there is an encoder."""
    rough = codes.astype(np.int64)
    for book, share in enumerate((0.3, 0.9, 1.0, 1.0, 1.0)):
        wrong = rng.random(len(rough)) < share
        rough[wrong, book] = rng.integers(0, CODES, size=int(wrong.sum()))
    rough[:, SPEAKER_BOOK] = timbres.scattered(rough[:, SPEAKER_BOOK], rng)
    astray = rng.choice((-1, 0, 0, 1), size=len(rough))
    rough[:, PHASE_BOOK] = at_level(rough[:, PHASE_BOOK], level_of(rough[:, PHASE_BOOK]) + astray)
    return rough


class ReferenceBank:
    """Reference prompts by speaker: the neural encoder's codes where there are any, else roughened ones."""

    def __init__(self, folder: Path, pool: ExamplePool, timbres: Timbres) -> None:
        self._folder, self._pool, self._timbres = folder, pool, timbres
        self._seen: set[Path] = set()
        self._heard: dict[str, list[tuple[str, np.ndarray]]] = {}

    def refresh(self) -> None:
        """Adds what was encoded meanwhile."""
        for path in sorted(self._folder.glob("*.npz")):
            if path in self._seen:
                continue
            self._seen.add(path)
            with np.load(path) as data:
                texts, offsets, codes = data["texts"].tolist(), data["offsets"], data["codes"]
            spans = zip(texts, offsets[:-1], offsets[1:], strict=True)
            self._heard.setdefault(speaker_of(path), []).extend((text, codes[a:b]) for text, a, b in spans)

    def draw(self, speaker: str, rng: np.random.Generator) -> tuple[np.ndarray, str | None]:
        """A reference of that speaker, without tags; half the time with its transcript."""
        heard = self._heard.get(speaker)
        if heard and rng.random() < 0.75:
            text, codes = heard[rng.integers(len(heard))]
            return codes.astype(np.int64), text if rng.random() < 0.5 else None
        for _ in range(200):
            example = self._pool.draw(speaker, rng)
            fits = SHORTEST_REFERENCE <= len(example.codes) <= LONGEST_REFERENCE
            if fits and "<|" not in example.text:
                break
        codes = example.codes[:LONGEST_REFERENCE].astype(np.int64)
        if rng.random() > CLEAN_SHARE:
            codes = roughened(codes, self._timbres, rng)
        return codes, example.text if rng.random() < 0.5 else None


class Mixer:
    """Draws single training sequences in the shares given above."""

    def __init__(self, work_dir: Path, quantizer: Quantizer, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._timbres, self._pitches = Timbres(quantizer), Pitches(quantizer)
        self._pool = ExamplePool(work_dir, quantizer)
        self._bank = ReferenceBank(work_dir / "references", self._pool, self._timbres)

    def refresh(self) -> None:
        """Takes in what other processes made meanwhile."""
        self._pool.refresh()
        self._bank.refresh()
        speakers = set(self._pool.by_speaker)
        self._languages = sorted(speakers & LANGUAGES.keys())
        self._named = sorted(speakers & NAMED.keys() - {DEFAULT})
        self._others = sorted(speakers & CONTINUUM.keys()) or self._named

    def draw(self, references: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The next sequence; without `references` only zero-shot ones."""
        rng, chance = self._rng, self._rng.random()
        if self._languages and chance < SHARES["language"]:
            return _sequence(self._pool.draw(str(rng.choice(self._languages)), rng))
        if chance < sum(SHARES.values()) or not references:
            return _sequence(self._pool.draw(DEFAULT, rng))
        kind = rng.random()
        if kind < DEFAULT_SHARE:
            speaker = DEFAULT
        else:
            speaker = str(rng.choice(self._named if kind < DEFAULT_SHARE + NAMED_SHARE else self._others))
        example, (codes, text) = self._pool.draw(speaker, rng), self._bank.draw(speaker, rng)
        if rng.random() < MOVED_SHARE:
            timbre = int(rng.integers(1, CODES))
            own = [example.codes[:, SPEAKER_BOOK].astype(np.int64), codes[:, SPEAKER_BOOK]]
            target, reference = self._timbres.moved(own, timbre)
            moved, codes = example.codes.copy(), codes.copy()
            moved[:, SPEAKER_BOOK], codes[:, SPEAKER_BOOK] = target, reference
            example = replace(example, codes=moved)
        if rng.random() < SHIFTED_SHARE:
            levels = int(rng.integers(-_FARTHEST_LEVELS, _FARTHEST_LEVELS + 1))
            codes = self._pitches.shifted(codes, levels)
            example = replace(example, codes=self._pitches.shifted(example.codes, levels))
        return _sequence(example, codes, text)


def batches(
    work_dir: Path, quantizer: Quantizer, tokens: int, seed: int, references: bool = True
) -> Iterator[Batch]:
    """Endless batches of about `tokens` positions, each of sequences of nearly one length."""
    mixer, rng = Mixer(work_dir, quantizer, seed), np.random.default_rng(seed + 1)
    while True:
        mixer.refresh()
        sequences = sorted((mixer.draw(references) for _ in range(800)), key=lambda part: len(part[0]))
        groups: list[list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]] = [[]]
        for sequence in sequences:
            if groups[-1] and (len(groups[-1]) + 1) * len(sequence[0]) > tokens:
                groups.append([])
            groups[-1].append(sequence)
        for index in rng.permutation(len(groups)):
            yield collate(groups[index])

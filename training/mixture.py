"""Knows what a batch is mixed of: who speaks what, after which reference, and how both are varied."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from training.batches import (
    LONGEST_REFERENCE,
    SHORTEST_REFERENCE,
    Batch,
    Example,
    ExamplePool,
    Sequence,
    collate,
    commonest_timbre,
    joined,
    sequence,
)
from training.data import DEFAULT, LONGEST_FRAMES, speaker_of
from training.espeak import LANGUAGES
from training.features import FRAME, HOPS_PER_FRAME, SAMPLE_RATE_HZ
from training.quantizer import (
    ACTIVE_LOG_MEL,
    CODES,
    LEVEL_SEMITONES,
    LEVELS,
    MEL_BOOKS,
    MEL_SCALE,
    PHASE_BOOK,
    PHASE_STEPS,
    PITCH_BOOK,
    PITCH_WEIGHT,
    SPEAKER_BOOK,
    TIMBRE_DIM,
    Quantizer,
    at_level,
    level_of,
)
from training.speakers import NAMED

# How a batch is mixed: the default voice without a reference, other languages, and the rest with references.
SHARES = {"default": 0.45, "language": 0.06}
# What the default voice says without a reference; of what has no tags so many are joined to a longer text.
KINDS = {"plain": 0.45, "everyday": 0.35, "tagged": 0.2}
JOINED_SHARE = 0.15
# Of those with references: named speakers, the default voice, otherwise continuum and crowd. The default
# voice has more texts than all others together; mostly they are said in the timbre of another.
NAMED_SHARE, DEFAULT_SHARE, DISGUISED_SHARE = 0.25, 0.25, 0.8
# How often the timbre of reference and target is moved together to that of another speaker, and their pitch.
# Seldom enough, the model says the code of a speaker whom it knows instead of the near one that it read.
MOVED_SHARE, SHIFTED_SHARE = 0.9, 0.75
# How often to one of so many nearest codes rather than to any: what a mean spectrum does not say of a speaker
# then still goes with the code, and can be learnt from it.
_NEAR_SHARE, _NEAR_CODES = 0.85, 48
_FARTHEST_LEVELS = 3
# How many references are what the neural encoder hears where that is known, and how many of the others are
# exact codes, as timbre and level of the named voices in the checkpoint are.
HEARD_SHARE, CLEAN_SHARE = 0.75, 0.5
# How many of an utterance's speaker codes the encoder hears right, at least and at most.
_RIGHT_SHARE = (0.2, 0.9)
# How many of its own codes of each mel book the model sees replaced by a near one, as if it had chosen so:
# it has to go on well after its own slips, and cannot learn by heart what follows what.
SLIPS = (0.03, 0.06, 0.1, 0.1, 0.1)


def nearest_codes(entries: torch.Tensor, count: int) -> np.ndarray:
    """The `count` nearest [1024, count] of each entry [1024, D], itself among them."""
    return torch.cdist(entries, entries).topk(count, largest=False).indices.numpy()


class Timbres:
    """Moves speaker codes about: to near ones, as the neural encoder does, or all to another speaker."""

    def __init__(self, quantizer: Quantizer, near: int = 12) -> None:
        self._places = quantizer.books[SPEAKER_BOOK, :, :TIMBRE_DIM]
        self._near, self._around = (nearest_codes(self._places, count) for count in (near, _NEAR_CODES))
        # What every code adds to the mean log-mel by which `active_frames` tells speech from silence.
        shares = quantizer.books[:MEL_BOOKS] @ quantizer.basis.mean(0) * MEL_SCALE
        self._loudness, self._silence = shares.numpy(), float(quantizer.mean.mean())

    def drawn(self, codes: np.ndarray, rng: np.random.Generator) -> int:
        """The code of another speaker, mostly one like the speaker of an utterance's `codes`."""
        if rng.random() > _NEAR_SHARE:
            return int(rng.integers(1, CODES))
        return max(1, int(rng.choice(self._around[commonest_timbre(codes)])))

    def scattered(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Some of an utterance's codes replaced by their neighbours; 0 stays."""
        scattered = self._near[codes, rng.integers(self._near.shape[1], size=codes.shape)]
        kept = (codes == 0) | (rng.random(codes.shape) < rng.uniform(*_RIGHT_SHARE))
        return np.where(kept, codes, scattered)

    def moved(self, parts: list[np.ndarray], target: int) -> list[np.ndarray]:
        """Speaker codes of one speaker, shifted so that its most frequent one becomes `target`."""
        own = commonest_timbre(parts[0])
        if own == 0:
            return parts
        shift = self._places[target] - self._places[own]
        used, where = np.unique(np.concatenate(parts), return_inverse=True)
        nearest = torch.cdist(self._places[used] + shift, self._places[1:]).argmin(1).numpy() + 1
        moved = np.where(used > 0, nearest, 0)[where]
        return np.split(moved, np.cumsum([len(part) for part in parts])[:-1])

    def disguised(self, codes: np.ndarray, target: int) -> np.ndarray:
        """Codes [T, 8] of the default voice in the timbre `target`: its code wherever there is speech."""
        loudness = self._silence + sum(self._loudness[book][codes[:, book]] for book in range(MEL_BOOKS))
        out = codes.copy()
        out[:, SPEAKER_BOOK] = np.where(loudness > ACTIVE_LOG_MEL, target, 0)
        return out


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

    def drawn_shift(self, codes: np.ndarray, rng: np.random.Generator) -> int:
        """By how many levels to shift a voice [T, 8], so that there are such levels."""
        voiced = codes[:, PHASE_BOOK] > 0
        own = int(np.median(level_of(codes[voiced, PHASE_BOOK]))) if voiced.any() else 0
        low, high = max(-_FARTHEST_LEVELS, LEVELS.min() - own), min(_FARTHEST_LEVELS, LEVELS.max() - own)
        return int(rng.integers(low, high + 1))

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
    """Codes [T, 8] as wrong as the neural encoder's, or less: it will not be the same one for ever."""
    rough, roughness = codes.astype(np.int64), rng.random() ** 0.5
    for book, share in enumerate((0.3, 0.9, 1.0, 1.0, 1.0)):
        wrong = rng.random(len(rough)) < share * roughness
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
            said = ((t, codes[a:b]) for t, a, b in spans if not self._pool.is_held_out(t))
            self._heard.setdefault(speaker_of(path), []).extend(said)

    def draw(self, speaker: str, rng: np.random.Generator, other: str) -> tuple[np.ndarray, str | None]:
        """A reference of that speaker, without tags, of another text; half the time with its transcript."""
        heard = [part for part in self._heard.get(speaker, []) if part[0] != other]
        if heard and rng.random() < HEARD_SHARE:
            text, codes = heard[rng.integers(len(heard))]
            return codes.astype(np.int64), text if rng.random() < 0.5 else None
        for _ in range(200):
            example = self._pool.draw(speaker, rng)
            fits = SHORTEST_REFERENCE <= len(example.codes) <= LONGEST_REFERENCE
            if fits and "<|" not in example.text and example.text != other:
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
        self._near = np.stack([nearest_codes(book, 16) for book in quantizer.books[:MEL_BOOKS]])
        self._pool = ExamplePool(work_dir, quantizer)
        self._bank = ReferenceBank(work_dir / "references", self._pool, self._timbres)

    def refresh(self) -> None:
        """Takes in what other processes made meanwhile."""
        self._pool.refresh()
        self._bank.refresh()
        speakers = set(self._pool.by_speaker)
        self._languages = sorted(speakers & LANGUAGES.keys())
        self._named = sorted(speakers & NAMED.keys() - {DEFAULT})
        self._others = sorted(speakers - NAMED.keys() - LANGUAGES.keys()) or self._named
        self._kinds = [kind for kind in KINDS if kind in self._pool.by_kind]
        shares = np.array([KINDS[kind] for kind in self._kinds])
        self._kind_shares = shares / shares.sum()

    def draw(self, references: bool = True) -> Sequence:
        """The next sequence; without `references` only zero-shot ones."""
        example, reference, text = self._drawn(references)
        return sequence(example, reference, text, self._slipped(example.codes))

    def _drawn(self, references: bool) -> tuple[Example, np.ndarray | None, str | None]:
        rng, chance = self._rng, self._rng.random()
        if self._languages and chance < SHARES["language"]:
            return self._pool.draw(str(rng.choice(self._languages)), rng), None, None
        if chance < sum(SHARES.values()) or not references:
            return self._default(), None, None
        kind = rng.random()
        if kind < DEFAULT_SHARE:
            speaker = DEFAULT
        else:
            speaker = str(rng.choice(self._named if kind < DEFAULT_SHARE + NAMED_SHARE else self._others))
        example = self._pool.draw(speaker, rng)
        codes, text = self._bank.draw(speaker, rng, example.text)
        if rng.random() < (DISGUISED_SHARE if speaker == DEFAULT else MOVED_SHARE):
            example, codes = self._moved(example, codes)
        if rng.random() < SHIFTED_SHARE:
            levels = self._pitches.drawn_shift(example.codes, rng)
            codes = self._pitches.shifted(codes, levels)
            example = replace(example, codes=self._pitches.shifted(example.codes, levels))
        return example, codes, text

    def _default(self) -> Example:
        """What the default voice says without a reference."""
        rng, kind = self._rng, str(self._rng.choice(self._kinds, p=self._kind_shares))
        pool = self._pool.by_kind[kind]
        parts = [pool[rng.integers(len(pool))]]
        if kind != "tagged" and rng.random() < JOINED_SHARE:
            others = [pool[rng.integers(len(pool))] for _ in range(rng.choice((1, 2, 3)))]
            parts += [part for part in others if "<|" not in part.text]
        while len(parts) > 1 and not _joinable(parts):
            parts.pop()
        return joined(parts)

    def _moved(self, example: Example, codes: np.ndarray) -> tuple[Example, np.ndarray]:
        """Utterance and reference [R, 8] in the timbre of another speaker."""
        timbre = self._timbres.drawn(example.codes[:, SPEAKER_BOOK], self._rng)
        if example.voice == DEFAULT:
            moved, codes = (self._timbres.disguised(part, timbre) for part in (example.codes, codes))
            if self._rng.random() > CLEAN_SHARE:
                codes[:, SPEAKER_BOOK] = self._timbres.scattered(codes[:, SPEAKER_BOOK], self._rng)
            return replace(example, codes=moved), codes
        moved, codes = example.codes.copy(), codes.copy()
        own = [part[:, SPEAKER_BOOK].astype(np.int64) for part in (moved, codes)]
        moved[:, SPEAKER_BOOK], codes[:, SPEAKER_BOOK] = self._timbres.moved(own, timbre)
        return replace(example, codes=moved), codes

    def _slipped(self, codes: np.ndarray) -> np.ndarray:
        """Codes [T, 8] with some of the mel books replaced by near ones (see SLIPS)."""
        rng, out, books = self._rng, codes.copy(), np.arange(MEL_BOOKS)
        own = codes[:, :MEL_BOOKS]
        near = self._near[books, own, rng.integers(self._near.shape[2], size=own.shape)]
        out[:, :MEL_BOOKS] = np.where(rng.random(own.shape) < np.array(SLIPS), near, own)
        return out


def _joinable(parts: list[Example]) -> bool:
    """Whether all but the last end a sentence, and all together are not longer than utterances may be."""
    ended = all(part.text.endswith((".", "?", "!")) for part in parts[:-1])
    return ended and sum(len(part.codes) + 4 for part in parts) <= LONGEST_FRAMES


def batches(
    work_dir: Path, quantizer: Quantizer, tokens: int, seed: int, references: bool = True
) -> Iterator[Batch]:
    """Endless batches of about `tokens` positions, each of sequences of nearly one length."""
    mixer, rng = Mixer(work_dir, quantizer, seed), np.random.default_rng(seed + 1)
    while True:
        mixer.refresh()
        drawn = (mixer.draw(references) for _ in range(max(800, tokens // 8)))
        sequences = sorted(drawn, key=lambda part: len(part[0]))
        groups: list[list[Sequence]] = [[]]
        for candidate in sequences:
            if groups[-1] and (len(groups[-1]) + 1) * len(candidate[0]) > tokens:
                groups.append([])
            groups[-1].append(candidate)
        for index in rng.permutation(len(groups)):
            yield collate(groups[index])

"""Knows how frame features become eight codes and back: mel books, a speaker book, a pitch and a phase book.

The speaker book says by how much a speaker's mean spectrum differs from the default voice's; the mel books
say what is left. So the same sound has nearly the same mel codes whoever speaks, and to clone a timbre is to
repeat one code. In silence, and for the default voice, the speaker code is 0. In the same way the phase book
says in every voiced frame how high the speaker's voice lies on the whole, beside the phase: a copy of what
the pitch codes of a whole utterance say, which the decoder does not need but the language model can repeat.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from training.features import HOPS_PER_FRAME, MEL_BANDS

BOOKS = 8
MEL_BOOKS = 5
SPEAKER_BOOK, PITCH_BOOK, PHASE_BOOK = 5, 6, 7
CODES = 1024
CODE_DIM = 64
LATENT_DIM = 128
MEL_DIMS = slice(0, 64)
PITCH_DIMS = slice(64, 72)
PHASE_DIMS = slice(72, 75)
# Of these the last is the level of the speaker's pitch.
LEVEL_DIMS = slice(74, 75)
SPEAKER_DIMS = slice(80, 104)
TIMBRE_DIM = 24
PHASE_STEPS = 64
# Levels of the speaker's mean pitch above the default voice's, in the order of their codes.
LEVELS = np.array([0, *range(-9, 0), *range(1, 6)])
LEVEL_SEMITONES = 1.6
_LEVEL_SCALE = 0.25
MEL_SCALE = 4.0
_TIMBRE_SCALE = 2.0
# A frame whose mean log-mel lies below this is silence.
ACTIVE_LOG_MEL = -2.7
_PITCH_CENTRE_HZ = 130.0
PITCH_WEIGHT = 9.0
_FAR = 4.0
# Rounds of k-means for books that start from older ones: the first books must keep their meaning.
_WARM_ROUNDS = (1, 1, 2, 3, 3)


def active_frames(mel: torch.Tensor) -> torch.Tensor:
    """Which frames [...] of mel patches [..., 256] are not silence."""
    return mel.mean(-1) > ACTIVE_LOG_MEL


def level_at(semitones: float) -> int:
    """The level, one of `LEVELS`, of a speaker so far above the default voice."""
    return int(np.clip(round(semitones / LEVEL_SEMITONES), LEVELS.min(), LEVELS.max()))


@dataclass(frozen=True)
class Offset:
    """How a speaker differs from the default voice: mean log-mel spectrum [64], mean pitch in semitones."""

    spectrum: torch.Tensor
    semitones: float

    @property
    def level(self) -> int:
        """The speaker's pitch as one of `LEVELS`."""
        return level_at(self.semitones)


NO_OFFSET = Offset(torch.zeros(MEL_BANDS), 0.0)


@dataclass(frozen=True)
class Quantizer:
    """PCA of the mel patch (`mean` [256], `basis` [256, 64]), axes of speakers' mean spectra (`timbre`
    [64 bands, 24]) and eight codebooks (`books` [8, 1024, 64])."""

    mean: torch.Tensor
    basis: torch.Tensor
    timbre: torch.Tensor
    books: torch.Tensor

    def latents(
        self, mel: torch.Tensor, pitch_hz: torch.Tensor, phase: torch.Tensor, offset: Offset
    ) -> torch.Tensor:
        """Un-quantised latents [T, 128] of frame features (mel [T, 256], pitch [T, 4], phase [T, 2]).

        The latents of the speaker's `offset` are an entry of the speaker book already, so that the mel books
        make up for its coarseness.
        """
        level = torch.tensor([offset.level])
        return self.latents_of(mel[None], pitch_hz[None], phase[None], offset.spectrum[None], level)[0]

    def latents_of(
        self,
        mel: torch.Tensor,
        pitch_hz: torch.Tensor,
        phase: torch.Tensor,
        spectrum: torch.Tensor,
        level: torch.Tensor,
    ) -> torch.Tensor:
        """The same for several speakers: latents [B, T, 128]; offsets are `spectrum` [B, 64], `level` [B]."""
        out = mel.new_zeros(*mel.shape[:2], LATENT_DIM)
        entries = self.books[SPEAKER_BOOK, :, :TIMBRE_DIM]
        entry = entries[_nearest(self.place(spectrum), entries)]
        out[..., SPEAKER_DIMS] = active_frames(mel)[..., None] * entry[:, None]
        out[..., MEL_DIMS] = (mel - self.mean) @ self.basis / MEL_SCALE - self.timbre_as_mel(out)
        out[..., PITCH_DIMS] = pitch_vector(pitch_hz.flatten(0, 1)).unflatten(0, mel.shape[:2])
        out[..., PHASE_DIMS.start : LEVEL_DIMS.start] = phase
        out[..., LEVEL_DIMS] = (phase != 0).any(-1, keepdim=True) * level[:, None, None] * _LEVEL_SCALE
        return out

    def place(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Where speakers lie among the speaker book's entries: offsets' spectra [..., 64] to [..., 24]."""
        return spectrum @ self.timbre / _TIMBRE_SCALE

    def to(self, device: torch.device) -> "Quantizer":
        """The same on a device."""
        return Quantizer(*(tensor.to(device) for tensor in self.__dict__.values()))

    def timbre_as_mel(self, latents: torch.Tensor) -> torch.Tensor:
        """What the speaker dimensions of latents [..., 128] add to the mel dimensions [..., 64]."""
        return latents[..., SPEAKER_DIMS] @ self.timbre_matrix()

    def timbre_matrix(self) -> torch.Tensor:
        """[24, 64]: from speaker dimensions to mel dimensions."""
        bands = self.timbre.T * _TIMBRE_SCALE
        return bands.repeat(1, HOPS_PER_FRAME) @ self.basis / MEL_SCALE

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Codes [T, 8] of latents [T, 128], each book taking the nearest entry of what is left to explain."""
        codes = []
        residual = latents.clone()
        for book in range(BOOKS):
            dims = book_dims(book)
            entries = self.books[book, :, : dims.stop - dims.start]
            code = _nearest(residual[:, dims], entries)
            residual[:, dims] -= entries[code]
            codes.append(code)
        return torch.stack(codes, 1)

    def decode(self, codes: torch.Tensor, books: int = BOOKS) -> torch.Tensor:
        """Latents [..., 128] of codes [..., 8], using only the first `books` books."""
        out = self.books.new_zeros(*codes.shape[:-1], LATENT_DIM)
        for book in range(books):
            dims = book_dims(book)
            out[..., dims] += self.books[book][codes[..., book]][..., : dims.stop - dims.start]
        return out

    def pitches(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Pitch in Hz and voicing (bool) that each pitch code says of its four hops, both [1024, 4]."""
        latents = torch.zeros(CODES, LATENT_DIM)
        latents[:, PITCH_DIMS] = self.books[PITCH_BOOK, :, : 2 * HOPS_PER_FRAME]
        pitch_hz, voiced = pitch_from_latents(latents)
        return pitch_hz.reshape(CODES, -1), voiced.reshape(CODES, -1)

    @classmethod
    def load(cls, path: Path) -> "Quantizer":
        """Reads the tensors that a state file has by these names."""
        return cls(**torch.load(path))


def book_dims(book: int) -> slice:
    """The latent dimensions that a book describes."""
    if book < MEL_BOOKS:
        return MEL_DIMS
    return {SPEAKER_BOOK: SPEAKER_DIMS, PITCH_BOOK: PITCH_DIMS, PHASE_BOOK: PHASE_DIMS}[book]


def pitch_vector(pitch_hz: torch.Tensor) -> torch.Tensor:
    """Voicing and scaled log-pitch of four hops [T, 8]; unvoiced hops copy a neighbour; 0 if all are."""
    voiced = (pitch_hz > 0).float()
    height = torch.where(pitch_hz > 0, (pitch_hz.clamp(min=1) / _PITCH_CENTRE_HZ).log() * PITCH_WEIGHT, 0.0)
    filled = height.clone()
    for distance in range(1, HOPS_PER_FRAME):
        for shift in (distance, -distance):
            donor, known = torch.roll(height, shift, 1), torch.roll(voiced, shift, 1).bool()
            inside = torch.zeros_like(known)
            inside[:, max(shift, 0) : HOPS_PER_FRAME + min(shift, 0)] = True
            filled = torch.where((voiced == 0) & (filled == 0) & known & inside, donor, filled)
    return torch.cat([voiced, filled], 1)


def _nearest(points: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
    norms = entries.square().sum(1)
    return torch.cat([(norms - 2 * part @ entries.T).argmin(1) for part in points.split(16384)])


def _k_means(
    points: torch.Tensor, rounds: int, generator: torch.Generator, start: torch.Tensor | None = None
) -> torch.Tensor:
    """1024 centroids; from `start`, entries keep their index and nearly their place."""
    if start is None:
        start = points[torch.randperm(len(points), generator=generator)[:CODES]]
    entries = start.clone()
    for _ in range(rounds):
        code = _nearest(points, entries)
        sums = torch.zeros_like(entries).index_add_(0, code, points)
        counts = torch.bincount(code, minlength=CODES)
        entries = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], entries)
        empty = torch.nonzero(counts == 0)[:, 0]
        if len(empty):
            entries[empty] = points[torch.randint(len(points), (len(empty),), generator=generator)]
    return entries


def phase_book() -> torch.Tensor:
    """Entry 0 says unvoiced, the next 64 point around the circle at level 0, and so on by `LEVELS`.

    What remains lies too far out to be chosen.
    """
    book = torch.zeros(CODES, CODE_DIM)
    used = 1 + PHASE_STEPS * len(LEVELS)
    angle = 2 * torch.pi * torch.arange(1, used) / PHASE_STEPS
    book[1:used, 0], book[1:used, 1] = angle.cos(), angle.sin()
    book[1:used, 2] = torch.from_numpy(LEVELS).repeat_interleave(PHASE_STEPS) * _LEVEL_SCALE
    book[used:, 0] = _FAR
    return book


def at_level(phase_codes: np.ndarray, level: np.ndarray | int) -> np.ndarray:
    """The same phases [T] of a speaker whose pitch lies at `level`; 0, unvoiced, stays."""
    place = np.argsort(LEVELS)[np.clip(level, LEVELS.min(), LEVELS.max()) - LEVELS.min()]
    return np.where(phase_codes == 0, 0, place * PHASE_STEPS + (phase_codes - 1) % PHASE_STEPS + 1)


def level_of(phase_codes: np.ndarray) -> np.ndarray:
    """The level that each phase code [T] says; 0 where unvoiced."""
    return LEVELS[np.clip((phase_codes - 1) // PHASE_STEPS, 0, len(LEVELS) - 1)]


def _speaker_book(places: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Entries for `places` [N, 24] of speakers and for mixtures of them; entry 0 is the default voice."""
    chosen = torch.randint(len(places), (30_000, 3), generator=generator)
    weights = torch.rand(30_000, 3, generator=generator) + 0.02
    weights = (weights / weights.sum(1, keepdim=True) - 1 / 3) * 1.6 + 1 / 3
    mixtures = (places[chosen] * weights[..., None]).sum(1)
    jitter = 0.15 * places.std(0) * torch.randn(mixtures.shape, generator=generator)
    book = torch.zeros(CODES, CODE_DIM)
    book[1:, :TIMBRE_DIM] = _k_means(mixtures + jitter, 8, generator)[1:]
    return book


def fit(
    mel: torch.Tensor,
    pitch_hz: torch.Tensor,
    phase: torch.Tensor,
    speaker: torch.Tensor,
    offsets: torch.Tensor,
    start: dict[str, torch.Tensor] | None = None,
    seed: int = 0,
) -> Quantizer:
    """Fits PCA and codebooks to a sample of frames (at least some ten thousand of every kind of voice).

    `speaker` [T] numbers each frame's speaker and `offsets` [N, 64] are those of all speakers. With `start`
    (an older `mean`, `basis` and `books`) the projection is kept and books start from the old ones.
    """
    generator = torch.Generator().manual_seed(seed)
    mean = mel.mean(0)
    values, vectors = torch.linalg.eigh((mel - mean).T @ (mel - mean) / len(mel))
    basis = vectors[:, -CODE_DIM:].flip(1)
    if start is not None:
        mean, basis = start["mean"], start["basis"]
    kept = ((mel - mel.mean(0)) @ basis).square().sum(1).mean() / values.sum()
    print(f"PCA keeps {float(kept):.4f} of the variance")
    axes, sizes, timbre = torch.pca_lowrank(torch.cat([offsets, -offsets]), TIMBRE_DIM, center=False)
    del axes
    print(f"timbre keeps {float(sizes.square().sum() / (2 * offsets.square().sum())):.4f}")
    books = torch.zeros(BOOKS, CODES, CODE_DIM)
    books[SPEAKER_BOOK] = _speaker_book(offsets @ timbre / _TIMBRE_SCALE, generator)
    blank = Quantizer(mean, basis, timbre, books)
    latents = torch.zeros(len(mel), LATENT_DIM)
    for number, offset in enumerate(offsets):
        own = speaker == number
        latents[own] = blank.latents(mel[own], pitch_hz[own], phase[own], Offset(offset, 0.0))
    residual, old = latents[:, MEL_DIMS].clone(), None if start is None else start["books"]
    for book in range(MEL_BOOKS):
        start_book = None if old is None else old[book]
        rounds = 16 if old is None else _WARM_ROUNDS[book]
        books[book] = _k_means(residual, rounds, generator, start_book)
        residual -= books[book][_nearest(residual, books[book])]
        print(f"book {book}: residual rms {float(residual.square().mean().sqrt()):.4f}", flush=True)
    voiced = latents[pitch_hz.amax(1) > 0, PITCH_DIMS]
    old_pitch = None if old is None else old[PITCH_BOOK, :, :8]
    books[PITCH_BOOK, 1:, :8] = _k_means(voiced, 12 if old is None else 1, generator, old_pitch)[1:]
    books[PHASE_BOOK] = phase_book()
    return Quantizer(mean, basis, timbre, books)


def pitch_from_latents(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pitch in Hz and voicing (bool) for each hop, both [4 T], as the latents [T, 128] describe them."""
    vector = latents[:, PITCH_DIMS]
    hz = (vector[:, HOPS_PER_FRAME:] / PITCH_WEIGHT).exp() * _PITCH_CENTRE_HZ
    return hz.reshape(-1), vector[:, :HOPS_PER_FRAME].reshape(-1) > 0.5

"""Knows how frame features become eight codes and back: mel books, a pitch book, a phase book."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from training.features import HOPS_PER_FRAME

BOOKS = 8
MEL_BOOKS = 6
CODES = 1024
CODE_DIM = 64
LATENT_DIM = 128
MEL_DIMS = slice(0, 64)
PITCH_DIMS = slice(64, 72)
PHASE_DIMS = slice(72, 74)
PHASE_STEPS = 64
_MEL_SCALE = 4.0
_PITCH_CENTRE_HZ = 130.0
_PITCH_WEIGHT = 9.0
_FAR = 4.0


@dataclass(frozen=True)
class Quantizer:
    """PCA of the mel patch (`mean` [256], `basis` [256, 64]) and eight codebooks (`books` [8, 1024, 64])."""

    mean: torch.Tensor
    basis: torch.Tensor
    books: torch.Tensor

    def latents(self, mel: torch.Tensor, pitch_hz: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
        """Un-quantised latents [T, 128] of frame features (mel [T, 256], pitch [T, 4], phase [T, 2])."""
        out = mel.new_zeros(len(mel), LATENT_DIM)
        out[:, MEL_DIMS] = (mel - self.mean) @ self.basis / _MEL_SCALE
        out[:, PITCH_DIMS] = pitch_vector(pitch_hz)
        out[:, PHASE_DIMS] = phase
        return out

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
        out = torch.zeros(*codes.shape[:-1], LATENT_DIM)
        for book in range(books):
            dims = book_dims(book)
            out[..., dims] += self.books[book][codes[..., book]][..., : dims.stop - dims.start]
        return out

    def save(self, path: Path) -> None:
        """Writes the three tensors."""
        torch.save({"mean": self.mean, "basis": self.basis, "books": self.books}, path)

    @classmethod
    def load(cls, path: Path) -> "Quantizer":
        """Reads what `save` wrote."""
        return cls(**torch.load(path))


def book_dims(book: int) -> slice:
    """The latent dimensions that a book describes: six mel books, then pitch with voicing, then phase."""
    if book < MEL_BOOKS:
        return MEL_DIMS
    return PITCH_DIMS if book == MEL_BOOKS else PHASE_DIMS


def pitch_vector(pitch_hz: torch.Tensor) -> torch.Tensor:
    """Voicing and scaled log-pitch of four hops [T, 8]; unvoiced hops copy a neighbour; 0 if all are."""
    voiced = (pitch_hz > 0).float()
    height = torch.where(pitch_hz > 0, (pitch_hz.clamp(min=1) / _PITCH_CENTRE_HZ).log() * _PITCH_WEIGHT, 0.0)
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


def _k_means(points: torch.Tensor, rounds: int, generator: torch.Generator) -> torch.Tensor:
    entries = points[torch.randperm(len(points), generator=generator)[:CODES]].clone()
    for _ in range(rounds):
        code = _nearest(points, entries)
        sums = torch.zeros_like(entries).index_add_(0, code, points)
        counts = torch.bincount(code, minlength=CODES)
        entries = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], entries)
        empty = torch.nonzero(counts == 0)[:, 0]
        if len(empty):
            entries[empty] = points[torch.randint(len(points), (len(empty),), generator=generator)]
    return entries


def _phase_book() -> torch.Tensor:
    """Entry 0 says unvoiced, the next 64 point around the circle, the rest lie too far out to be chosen."""
    book = torch.zeros(CODES, CODE_DIM)
    steps = torch.arange(1, CODES)
    angle = 2 * torch.pi * steps / PHASE_STEPS
    radius = torch.where(steps <= PHASE_STEPS, 1.0, _FAR)
    book[1:, 0], book[1:, 1] = radius * angle.cos(), radius * angle.sin()
    return book


def fit(mel: torch.Tensor, pitch_hz: torch.Tensor, phase: torch.Tensor, seed: int = 0) -> Quantizer:
    """Fits PCA and codebooks to a sample of frames (at least some ten thousand of every voice)."""
    generator = torch.Generator().manual_seed(seed)
    mean = mel.mean(0)
    centred = mel - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(mel))
    basis = vectors[:, -CODE_DIM:].flip(1)
    print(f"PCA keeps {float(values[-CODE_DIM:].sum() / values.sum()):.4f} of the variance")
    blank = Quantizer(mean, basis, torch.zeros(BOOKS, CODES, CODE_DIM))
    latents = blank.latents(mel, pitch_hz, phase)
    books = torch.zeros(BOOKS, CODES, CODE_DIM)
    residual = latents[:, MEL_DIMS].clone()
    for book in range(MEL_BOOKS):
        books[book] = _k_means(residual, 16, generator)
        residual -= books[book][_nearest(residual, books[book])]
        print(f"book {book}: residual rms {float(residual.square().mean().sqrt()):.4f}", flush=True)
    voiced = latents[pitch_hz.amax(1) > 0, PITCH_DIMS]
    books[MEL_BOOKS, 1:, :8] = _k_means(voiced, 16, generator)[1:]
    books[BOOKS - 1] = _phase_book()
    return Quantizer(mean, basis, books)


def pitch_from_latents(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pitch in Hz and voicing (bool) for each hop, both [4 T], as the latents [T, 128] describe them."""
    vector = latents[:, PITCH_DIMS]
    hz = (vector[:, HOPS_PER_FRAME:] / _PITCH_WEIGHT).exp() * _PITCH_CENTRE_HZ
    return hz.reshape(-1), vector[:, :HOPS_PER_FRAME].reshape(-1) > 0.5


def stack_features(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, ...]:
    """Joins (mel, pitch, phase) arrays of several shards into float tensors."""
    return tuple(torch.from_numpy(np.concatenate(column)).float() for column in zip(*parts, strict=True))

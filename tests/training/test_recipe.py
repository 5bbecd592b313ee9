"""Laws of the training recipe that need neither flite nor a recogniser."""

import numpy as np
import pytest
import torch

from training.features import FRAME, frame_features, pitch_track
from training.prompts import (
    AUDIO,
    BEGIN_OF_CODES,
    BOOKS,
    END_OF_CODES,
    PLACEHOLDER,
    REF_AUDIO,
    REF_TEXT,
    TEXT,
    TTS,
    build_prompt,
    delay,
    undelay,
)
from training.quantizer import CODE_DIM, CODES, Quantizer, fit, pitch_from_latents
from training.texts import as_sentence, held_out_sus

SAMPLE_RATE_HZ = 24_000


def buzz(pitch_hz: float, seconds: float = 1.2) -> torch.Tensor:
    """A harmonic tone with a formant-like slope, whole frames long."""
    count = int(seconds * SAMPLE_RATE_HZ) // FRAME * FRAME
    time = torch.arange(count) / SAMPLE_RATE_HZ
    partials = [torch.cos(2 * torch.pi * pitch_hz * k * time) / k for k in range(1, 20)]
    return 0.1 * torch.stack(partials).sum(0)


@pytest.mark.parametrize("pitch_hz", [85.0, 130.0, 215.0])
def test_pitch_track_finds_the_pitch_of_a_harmonic_tone(pitch_hz: float) -> None:
    track = pitch_track(buzz(pitch_hz))
    assert float((track > 0).float().mean()) > 0.9
    assert abs(float(track[track > 0].median()) / pitch_hz - 1) < 0.01


def test_noise_is_unvoiced() -> None:
    noise = 0.1 * torch.randn(FRAME * 30, generator=torch.Generator().manual_seed(0))
    assert float((pitch_track(noise) > 0).float().mean()) < 0.2


def test_phase_turns_with_the_fundamental() -> None:
    pitch_hz = 140.0
    _, _, phase = frame_features(buzz(pitch_hz))
    angle = torch.atan2(phase[5:20, 1], phase[5:20, 0])
    expected = 2 * torch.pi * pitch_hz * FRAME / SAMPLE_RATE_HZ
    drift = torch.remainder(angle.diff() - expected + torch.pi, 2 * torch.pi) - torch.pi
    assert float(drift.abs().max()) < 0.2


@pytest.fixture(scope="module")
def quantizer() -> Quantizer:
    tones = [frame_features(buzz(80.0 + 3 * index) * (0.2 + 0.02 * index)) for index in range(45)]
    mel, pitch_hz, phase = (torch.cat(column) for column in zip(*tones, strict=True))
    return fit(mel, pitch_hz, phase)


def test_codes_keep_pitch_and_envelope(quantizer: Quantizer) -> None:
    features = frame_features(buzz(122.0) * 0.48)
    latents = quantizer.latents(*features)
    codes = quantizer.encode(latents)
    assert codes.shape == (len(latents), BOOKS)
    assert int(codes.max()) < CODES
    restored = quantizer.decode(codes)
    error = (restored - latents)[:, :CODE_DIM].square().mean() / latents[:, :CODE_DIM].square().mean()
    assert float(error) < 0.05
    pitch_hz, voiced = pitch_from_latents(restored)
    assert abs(float(pitch_hz[voiced].median()) / 122.0 - 1) < 0.03


def test_delay_shifts_each_book_and_is_undone() -> None:
    codes = np.random.default_rng(0).integers(0, CODES, size=(11, BOOKS))
    rows = delay(codes)
    assert rows.shape == (11 + BOOKS - 1, BOOKS)
    for row in range(len(rows)):
        for book in range(BOOKS):
            if row < book:
                assert rows[row, book] == BEGIN_OF_CODES
            elif row >= book + 11:
                assert rows[row, book] == END_OF_CODES
    assert (undelay(rows) == codes).all()


def test_prompt_layouts() -> None:
    codes = np.zeros((9, BOOKS), dtype=np.int64)
    assert build_prompt("Hi").ids.tolist() == [TTS, TEXT, *b"Hi", AUDIO]
    cloned = build_prompt("Hi", codes)
    assert cloned.ids.tolist() == [TTS, REF_AUDIO, *[PLACEHOLDER] * 16, TEXT, *b"Hi", AUDIO]
    full = build_prompt("Hi", codes, "yo")
    assert full.ids.tolist() == [TTS, REF_TEXT, *b"yo", REF_AUDIO, *[PLACEHOLDER] * 16, TEXT, *b"Hi", AUDIO]
    assert (full.reference_rows == delay(codes)).all()


def test_held_out_sentences_are_the_same_every_time() -> None:
    assert held_out_sus(5) == held_out_sus(5)
    assert as_sentence(["i", "see", "i'm"]) == "I see I'm."

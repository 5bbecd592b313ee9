"""Laws of the training recipe that need neither flite nor a recogniser."""

import math

import numpy as np
import pytest
import torch

from training.batches import IGNORED, code_weights
from training.features import FRAME, MEL_BANDS, frame_features, log_mel_patches, pitch_track
from training.mixture import Pitches
from training.prompts import (
    AUDIO,
    BEGIN_OF_CODES,
    BOOKS,
    END_OF_CODES,
    PLACEHOLDER,
    REF_AUDIO,
    REF_TEXT,
    SPECIAL_TOKENS,
    TEXT,
    TOKEN_IDS,
    TTS,
    build_prompt,
    delay,
    text_ids,
    undelay,
)
from training.quantizer import (
    CODE_DIM,
    CODES,
    LEVEL_SEMITONES,
    NO_OFFSET,
    PHASE_BOOK,
    PHASE_STEPS,
    PITCH_BOOK,
    SPEAKER_BOOK,
    Offset,
    Quantizer,
    active_frames,
    at_level,
    fit,
    level_of,
    pitch_from_latents,
)
from training.speakers import NAMED, STRANGERS, continuum
from training.synthesis import synthesiser_library
from training.tags import EMOTIONS, PAUSES, PROSODY, SOUNDS, STYLES, written
from training.texts import as_sentence, held_out_sus
from training.train_codec import recoloured
from training.warm_start import recover_basis

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
    offsets = torch.randn(24, MEL_BANDS, generator=torch.Generator().manual_seed(1))
    offsets[0] = 0
    # Also as other speakers hear themselves: every second tone belongs to one.
    speaker = (torch.arange(len(mel)) % 2) * 3
    return fit(mel, pitch_hz, phase, speaker, offsets)


def test_codes_keep_pitch_and_envelope(quantizer: Quantizer) -> None:
    features = frame_features(buzz(122.0) * 0.48)
    latents = quantizer.latents(*features, NO_OFFSET)
    codes = quantizer.encode(latents)
    assert codes.shape == (len(latents), BOOKS)
    assert int(codes.max()) < CODES
    restored = quantizer.decode(codes)
    error = (restored - latents)[:, :CODE_DIM].square().mean() / latents[:, :CODE_DIM].square().mean()
    assert float(error) < 0.05
    pitch_hz, voiced = pitch_from_latents(restored)
    assert abs(float(pitch_hz[voiced].median()) / 122.0 - 1) < 0.03


def test_the_speaker_code_is_one_code_and_carries_the_speakers_mean_spectrum(quantizer: Quantizer) -> None:
    features = frame_features(buzz(122.0) * 0.48)
    offset = quantizer.timbre @ quantizer.books[SPEAKER_BOOK, 40, :24] * 2.0
    plain, coloured = (quantizer.latents(*features, o) for o in (NO_OFFSET, Offset(offset, 0.0)))
    codes = quantizer.encode(coloured)[:, SPEAKER_BOOK]
    active = active_frames(features[0])
    assert set(codes[active].tolist()) == {40}
    assert set(codes[~active].tolist()) <= {0}
    whole = coloured[:, :CODE_DIM] + quantizer.timbre_as_mel(coloured)
    torch.testing.assert_close(whole, plain[:, :CODE_DIM], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("levels", [-2, 1])
def test_a_shifted_utterance_has_another_pitch_and_phases_that_fit_it(
    quantizer: Quantizer, levels: int
) -> None:
    codes = quantizer.encode(quantizer.latents(*frame_features(buzz(122.0) * 0.48), NO_OFFSET))
    pitches = Pitches(quantizer)
    shifted = torch.from_numpy(pitches.shifted(codes.numpy(), levels))
    (before_hz, voiced), (after_hz, still) = (
        pitch_from_latents(quantizer.decode(c)) for c in (codes, shifted)
    )
    assert torch.equal(voiced, still)
    moved = 12 * torch.log2(after_hz[voiced].mean() / before_hz[voiced].mean())
    assert abs(float(moved) - LEVEL_SEMITONES * levels) < 0.4
    said = level_of(shifted[:, PHASE_BOOK].numpy())[shifted[:, PHASE_BOOK] > 0]
    assert set(said.tolist()) == {levels}
    phase = shifted[:, PHASE_BOOK]
    turn = after_hz.reshape(-1, 4).mean(1) * FRAME / SAMPLE_RATE_HZ
    drift = (phase[1:] - phase[:-1]) / PHASE_STEPS - (turn[1:] + turn[:-1]) / 2
    spoken = (phase[1:] > 0) & (phase[:-1] > 0)
    assert float((drift - drift.round())[spoken].abs().median()) < 0.08
    assert torch.equal(shifted[:, :PITCH_BOOK], codes[:, :PITCH_BOOK])


@pytest.mark.parametrize(("semitones", "level"), [(0.0, 0), (-4.9, -3), (7.0, 4), (-40.0, -9)])
def test_voiced_frames_say_the_level_of_the_speakers_pitch(
    quantizer: Quantizer, semitones: float, level: int
) -> None:
    features = frame_features(torch.cat([buzz(122.0) * 0.48, torch.zeros(9600)]))
    plain = quantizer.encode(quantizer.latents(*features, NO_OFFSET))
    codes = quantizer.encode(quantizer.latents(*features, Offset(NO_OFFSET.spectrum, semitones)))
    phases, voiced = codes[:, PHASE_BOOK].numpy(), plain[:, PHASE_BOOK].numpy() > 0
    assert 0 < voiced.sum() < len(voiced)
    assert (level_of(phases)[voiced] == level).all()
    assert (phases[~voiced] == 0).all()
    assert (at_level(phases, 0) == plain[:, PHASE_BOOK].numpy()).all()
    assert torch.equal(codes[:, :PHASE_BOOK], plain[:, :PHASE_BOOK])


def test_the_first_codes_that_say_who_speaks_and_how_high_count_most() -> None:
    targets = torch.zeros(2, 6, BOOKS, dtype=torch.long)
    targets[:, 0] = IGNORED
    targets[0, 2:5, SPEAKER_BOOK] = 7
    targets[1, 1, PHASE_BOOK], targets[1, 3:, PHASE_BOOK] = 1024, 65
    weights = code_weights(targets)
    assert (weights != 1).nonzero().tolist() == [
        [0, 2, SPEAKER_BOOK], [0, 3, SPEAKER_BOOK], [1, 3, PHASE_BOOK], [1, 4, PHASE_BOOK],
    ]  # fmt: skip


def test_a_recoloured_crop_sounds_like_what_its_features_say() -> None:
    wave = buzz(122.0) * 0.48
    change = 0.6 * torch.cos(torch.linspace(0, 5, MEL_BANDS))
    patches = log_mel_patches(wave)
    filtered, moved, offset = recoloured(wave, patches, NO_OFFSET, change)
    heard = log_mel_patches(filtered)
    inside, loud = slice(2, -2), (patches > 0)[2:-2]
    assert float((heard - moved)[inside][loud].abs().mean()) < 0.1
    assert float((heard - patches)[inside][loud].abs().mean()) > 0.25
    torch.testing.assert_close(offset.spectrum, change)


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


def test_control_tags_are_single_tokens_among_bytes() -> None:
    ids = text_ids("Oh<|prosody:pause|> well")
    assert ids == [*b"Oh", TOKEN_IDS["<|prosody:pause|>"], *b" well"]


def test_strangers_are_never_drawn_for_training() -> None:
    drawn = continuum(60)
    assert continuum(60) == drawn
    assert not set(STRANGERS) & (set(NAMED) | set(drawn))
    for stranger in STRANGERS.values():
        near = [s for s in drawn.values() if s.base == stranger.base and abs(s.warp - stranger.warp) < 0.012]
        for speaker in near:
            far_in_pitch = abs(12 * math.log2(speaker.pitch_hz / stranger.pitch_hz)) >= 1.5
            assert far_in_pitch or abs(speaker.tilt - stranger.tilt) >= 0.8


def test_every_prosody_tag_and_emotion_of_the_format_has_a_delivery() -> None:
    known = {written(tag) for tag in (*PROSODY, *PAUSES, *EMOTIONS, *STYLES, *SOUNDS)}
    promised = [t for t in SPECIAL_TOKENS if t.startswith(("<|prosody:", "<|emotion:"))]
    assert len(promised) == 31
    assert set(promised) <= known
    assert known <= set(SPECIAL_TOKENS)


def test_a_synthesiser_that_is_not_there_is_asked_for() -> None:
    with pytest.raises(OSError, match="apt install flite espeak-ng"):
        synthesiser_library("libno-such-synthesiser.so.1")


def test_recovering_a_basis_undoes_a_rotation() -> None:
    generator = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(32, 8, generator=generator))[0]
    mel = torch.randn(500, 32, generator=generator) @ (basis @ basis.T) + 3.0
    mean = torch.randn(32, generator=generator)
    got_mean, got_basis = recover_basis(mel, (mel - mean) @ basis)
    torch.testing.assert_close((mel - got_mean) @ got_basis, (mel - mean) @ basis, atol=1e-3, rtol=1e-3)

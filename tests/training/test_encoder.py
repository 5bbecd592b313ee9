"""Laws of the encoder's training by the clock, with tones instead of a synthesiser."""

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from training import train_codec, train_encoder, warm_start
from training.codec import Encoder
from training.crowd import Role, drawn_variant
from training.features import FRAME, HOPS_PER_FRAME, MEL_BANDS
from training.hearing import Hall
from training.quantizer import BOOKS, CODE_DIM, CODES, LEVEL_DIMS, SPEAKER_DIMS, Quantizer
from training.scripts import Part, Script
from training.speakers import STRANGERS, Speaker, continuum, native
from training.train_encoder import Clock, hearing_losses

FRAMES = 30


def tone(pitch_hz: float) -> torch.Tensor:
    """A harmonic tone of 30 frames."""
    time = torch.arange(FRAMES * FRAME) / 24_000
    return 0.05 * torch.stack([torch.cos(2 * torch.pi * pitch_hz * k * time) / k for k in range(1, 20)]).sum(
        0
    )


@pytest.fixture(scope="module")
def quantizer() -> Quantizer:
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(256, CODE_DIM, generator=generator))[0]
    timbre = torch.linalg.qr(torch.randn(MEL_BANDS, 24, generator=generator))[0]
    books = torch.randn(BOOKS, CODES, CODE_DIM, generator=generator)
    books[:, 0] = 0
    return Quantizer(torch.zeros(256), basis, timbre, books)


def perform(folder: Path, name: str, kind: str, speaker: Speaker, waves: list[torch.Tensor]) -> Role:
    """Writes tones as if a process had spoken them."""
    (folder / "crowd").mkdir(exist_ok=True)
    offsets = FRAMES * np.arange(len(waves) + 1)
    np.savez(
        folder / "crowd" / f"{name}.npz", samples=(torch.cat(waves) * 32767).numpy().astype(np.int16),
        offsets=offsets, whispered=np.zeros(offsets[-1] * HOPS_PER_FRAME, bool), common=np.arange(len(waves)),
    )  # fmt: skip
    scripts = tuple(Script("", (Part(""),)) for _ in waves)
    return Role(name, kind, speaker, scripts, tuple(range(len(waves))))


@pytest.fixture
def hall(tmp_path: Path, quantizer: Quantizer) -> Hall:
    waves = [tone(pitch_hz) for pitch_hz in (110.0, 150.0)]
    louder = [2 * wave for wave in waves]
    roles = [
        perform(tmp_path, "c001-1", "crowd", Speaker("c001", "slt", 172, 27), louder),
        perform(tmp_path, "slt-0", "default", native("slt"), waves),
    ]
    return Hall(tmp_path, quantizer, roles, torch.device("cpu"))


def filled(hall: Hall) -> Hall:
    while hall.take_in():
        pass
    return hall


def test_a_wider_encoder_grown_from_a_narrow_one_hears_the_same() -> None:
    torch.manual_seed(0)
    narrow, wide = Encoder(4), Encoder(6)
    wave = tone(120.0)[None]
    with torch.no_grad():
        before = float((wide(wave) - narrow(wave)).abs().max())
        wide.grow_from(narrow)
        after = float((wide(wave) - narrow(wave)).abs().max())
    assert after < 1e-5 < before
    assert Encoder.of(wide.state_dict()).width == 6


def test_nobody_is_measured_before_the_default_voice_has_said_the_common_sentences(hall: Hall) -> None:
    assert not hall.tuned
    assert hall.take_in() == 1
    assert hall.speakers == ["slt"]
    assert hall.tuned
    assert hall.take_in() == 1
    assert hall.speakers == ["slt", "c001"]


def test_nobody_waits_for_processes_that_have_ended(tmp_path: Path, quantizer: Quantizer) -> None:
    role = Role("slt-0", "default", native("slt"), (Script("", (Part(""),)),), (0,))
    silent = Hall(tmp_path, quantizer, [role], torch.device("cpu"))
    with subprocess.Popen(["false"]) as worker:
        worker.wait()
        with pytest.raises(RuntimeError, match="nobody spoke"):
            train_encoder._await_speakers(silent, [worker], math.inf)


def test_a_speakers_place_is_the_difference_on_the_same_sentences(hall: Hall, quantizer: Quantizer) -> None:
    heard = filled(hall).draw(60, 20, np.random.default_rng(0))
    sizes = heard.places.norm(dim=1)
    # Twice as loud is 0.69 nats in all bands that lie above the floor.
    expected = quantizer.place(torch.full((MEL_BANDS,), 0.693))
    assert float((heard.places - expected).norm(dim=1).min()) < 0.6 * float(expected.norm())
    # The default voice lies at the origin, unless a crop was filtered.
    assert float(sizes.min()) == 0


def test_crops_are_not_judged_near_a_cut_nor_after_the_end(hall: Hall) -> None:
    longer = filled(hall).draw(8, FRAMES + 10, np.random.default_rng(1)).judged
    assert longer[:, :FRAMES].all()
    assert not longer[:, FRAMES:].any()
    shorter = hall.draw(32, 14, np.random.default_rng(1)).judged
    starts, inside = shorter[:, 0], ~shorter[:, 0] & ~shorter[:, -1]
    assert starts.any()
    assert inside.any()
    assert set(shorter[inside].sum(1).tolist()) == {2}


def test_right_latents_cost_nothing_and_a_wrong_timbre_does(hall: Hall, quantizer: Quantizer) -> None:
    heard = filled(hall).draw(8, 20, np.random.default_rng(2))
    strange = (heard.latents[..., SPEAKER_DIMS] != 0).any(-1)
    right = heard.latents.clone()
    right[..., SPEAKER_DIMS] = heard.places[:, None] * strange[..., None]
    parts = hearing_losses(right, quantizer, heard)
    assert all(float(parts[name]) < 1e-6 for name in ("mel", "pitch", "phase", "timbre", "level"))
    right[..., SPEAKER_DIMS] += 0.5
    assert float(hearing_losses(right, quantizer, heard)["timbre"]) > 0.01


def test_an_encoder_that_was_trained_by_the_clock_is_not_trained_on_in_steps(tmp_path: Path) -> None:
    path = tmp_path / "encoder.pt"
    torch.save({"model": Encoder(6).state_dict(), "step": 3}, path)
    before = path.read_bytes()
    train_codec.train_encoder(tmp_path, train_codec.CodecSchedule(1, 10))
    assert path.read_bytes() == before


def test_both_trainings_begin_with_an_encoder_that_hears_todays_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, gain = Encoder(6), 1.5
    monkeypatch.setattr(warm_start, "previous_tensors", lambda _: {})
    monkeypatch.setattr(train_encoder, "previous_tensors", lambda _: {})
    for module in (warm_start, train_encoder):
        monkeypatch.setattr(module, "encoder_of", lambda _: first)
    (tmp_path / "previous").mkdir()
    torch.save({"gain": torch.tensor(gain)}, tmp_path / "previous" / "quantizer.pt")
    by_steps = Encoder()
    warm_start.start_encoder(tmp_path, by_steps)
    wave = tone(120.0)[None]
    with torch.no_grad():
        expected = first(gain * wave)
        expected[..., LEVEL_DIMS] = 0
        for begun in (by_steps, train_encoder._start(tmp_path)):
            torch.testing.assert_close(begun(wave), expected, atol=1e-4, rtol=1e-4)


def test_the_rate_rises_holds_and_falls_by_the_clock() -> None:
    clock = Clock(100, 1)
    assert clock.rate(0.001) < 0.1 * clock.peak_rate
    assert clock.rate(0.3) == pytest.approx(clock.peak_rate)
    assert clock.rate(1.0) == pytest.approx(0.01 * clock.peak_rate)


def test_the_crowd_reaches_wider_than_the_continuum_and_has_no_stranger() -> None:
    crowd, usual = (list(continuum(90, 78, "c", wider).values()) for wider in (0.3, 0.0))
    assert max(abs(speaker.tilt) for speaker in crowd) > 2.2 >= max(abs(speaker.tilt) for speaker in usual)
    assert not {speaker.name for speaker in crowd} & set(STRANGERS)
    rng = np.random.default_rng(4)
    texts = {drawn_variant(rng) for _ in range(20)}
    assert len(texts) == 20
    assert all(text.startswith("language variant\npitch ") and text.count("formant") == 9 for text in texts)

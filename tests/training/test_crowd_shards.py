"""Laws of the crowd's shards, with tones instead of a synthesiser."""

from pathlib import Path

import numpy as np
import pytest
import torch

from training import crowd_shards
from training.batches import load_examples, speaker_offset
from training.crowd import Role
from training.features import FRAME, HOPS_PER_FRAME, MEL_BANDS
from training.quantizer import BOOKS, CODE_DIM, CODES, SPEAKER_BOOK, TIMBRE_DIM, Quantizer
from training.scripts import Part, Script
from training.speakers import Speaker, native

FRAMES = 20


def tone(pitch_hz: float) -> torch.Tensor:
    time = torch.arange(FRAMES * FRAME) / 24_000
    return 0.05 * sum(torch.cos(2 * torch.pi * pitch_hz * k * time) / k for k in range(1, 20))


def performed(folder: Path, name: str, kind: str, speaker: Speaker, gain: float, common: list[int]) -> Role:
    """A role whose sentences are tones; -1 in `common` is a sentence that nobody else says."""
    waves = [gain * tone(100.0 + 10 * number) for number in common]
    offsets = FRAMES * np.arange(len(common) + 1)
    (folder / "crowd").mkdir(exist_ok=True)
    np.savez(
        folder / "crowd" / f"{name}.npz", samples=(torch.cat(waves) * 32767).numpy().astype(np.int16),
        offsets=offsets, whispered=np.zeros(offsets[-1] * HOPS_PER_FRAME, bool), common=np.array(common),
    )  # fmt: skip
    numbers = tuple(number for number in common if number >= 0)
    texts = [f"text {number}" for number in numbers]
    return Role(name, kind, speaker, tuple(Script(text, (Part(text),)) for text in texts), numbers)


@pytest.fixture
def work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "means").mkdir()
    (tmp_path / "shards").mkdir()
    usual = np.append(np.full(MEL_BANDS, -1.0), np.log(120.0)).astype(np.float32)
    np.save(tmp_path / "means" / "slt.npy", usual)
    roles = [
        performed(tmp_path, "slt-0", "default", native("slt"), 1.0, [0, 1, 2, 3]),
        performed(tmp_path, "c001-1", "crowd", Speaker("c001", "slt", 172, 27), 2.0, [3, 1, -1]),
        performed(tmp_path, "c002-1", "crowd", Speaker("c002", "slt", 172, 27), 1.0, [3, 2, 1, 0, 2, 1, 0]),
        performed(tmp_path, "h1-1", "held", Speaker("h1", "slt", 222, 28), 2.0, [0, 1]),
    ]
    monkeypatch.setattr(crowd_shards, "read_casting", lambda _: (roles, {}))
    monkeypatch.setattr(crowd_shards, "start_performing", lambda *_: [])
    crowd_shards.write_shards(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def quantizer() -> Quantizer:
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(256, CODE_DIM, generator=generator))[0]
    timbre = torch.linalg.qr(torch.randn(MEL_BANDS, TIMBRE_DIM, generator=generator))[0]
    books = torch.randn(BOOKS, CODES, CODE_DIM, generator=generator)
    books[SPEAKER_BOOK] *= 0.2
    books[:, 0] = 0
    return Quantizer(torch.full((256,), -1.0), basis, timbre, books)


def test_a_speaker_is_measured_on_sentences_that_the_default_voice_says_too(work_dir: Path) -> None:
    offset = speaker_offset(work_dir, "c001")
    assert offset.spectrum.median() == pytest.approx(np.log(2), abs=0.05)
    assert offset.semitones == pytest.approx(0, abs=0.2)


def test_its_shard_has_the_common_sentences_in_one_timbre(work_dir: Path, quantizer: Quantizer) -> None:
    examples = load_examples(work_dir / "shards" / "c001_0001.npz", quantizer)
    assert [(e.voice, e.text, len(e.codes)) for e in examples] == [
        ("c001", "text 3", FRAMES), ("c001", "text 1", FRAMES),
    ]  # fmt: skip
    said = {int(code) for example in examples for code in example.codes[:, SPEAKER_BOOK]} - {0}
    assert len(said) == 1


def test_nothing_is_learnt_from_those_who_are_kept_for_scores(work_dir: Path) -> None:
    assert {path.name for path in (work_dir / "shards").iterdir()} == {"c001_0001.npz", "c002_0001.npz"}


def test_a_shard_has_five_sentences_however_many_the_encoder_hears(
    work_dir: Path, quantizer: Quantizer
) -> None:
    examples = load_examples(work_dir / "shards" / "c002_0001.npz", quantizer)
    assert [example.text for example in examples] == [f"text {number}" for number in (3, 2, 1, 0, 2)]

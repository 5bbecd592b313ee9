"""Laws of how references and targets are varied together."""

from pathlib import Path

import numpy as np
import pytest
import torch

from training.batches import Example, ExamplePool
from training.mixture import Pitches, ReferenceBank, Timbres
from training.quantizer import (
    BOOKS,
    CODE_DIM,
    CODES,
    LEVELS,
    PHASE_BOOK,
    SPEAKER_BOOK,
    TIMBRE_DIM,
    Quantizer,
    at_level,
    level_of,
    phase_book,
)
from training.texts import HELD_OUT, TextSource, held_out_everyday, held_out_open, held_out_sus


@pytest.fixture(scope="module")
def quantizer() -> Quantizer:
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(256, CODE_DIM, generator=generator))[0]
    timbre = torch.linalg.qr(torch.randn(64, TIMBRE_DIM, generator=generator))[0]
    books = torch.randn(BOOKS, CODES, CODE_DIM, generator=generator)
    books[:, 0] = 0
    books[PHASE_BOOK] = phase_book()
    return Quantizer(torch.zeros(256), basis, timbre, books)


def test_a_voice_is_shifted_only_to_levels_that_there_are(quantizer: Quantizer) -> None:
    pitches, rng = Pitches(quantizer), np.random.default_rng(0)
    for own in LEVELS.tolist():
        codes = np.ones((6, BOOKS), dtype=np.int64)
        codes[:, PHASE_BOOK] = at_level(np.array([0, 1, 7, 30, 64, 0]), own)
        shifts = {pitches.drawn_shift(codes, rng) for _ in range(60)}
        assert len(shifts) > 3
        for levels in shifts:
            shifted = pitches.shifted(codes, levels)
            assert set(level_of(shifted[1:5, PHASE_BOOK])) == {own + levels}
            assert (shifted[[0, 5], PHASE_BOOK] == 0).all()


def test_a_timbre_is_moved_mostly_to_one_like_it_and_at_times_to_any(quantizer: Quantizer) -> None:
    timbres, rng = Timbres(quantizer), np.random.default_rng(0)
    places = quantizer.books[SPEAKER_BOOK, :, :TIMBRE_DIM]
    for own, codes in ((17, np.array([0, 17, 17, 5])), (0, np.zeros(4, dtype=np.int64))):
        drawn = np.array([timbres.drawn(codes, rng) for _ in range(2000)])
        near = (places - places[own]).norm(dim=1).argsort()[:48].tolist()
        assert 0.8 < np.isin(drawn, near).mean() < 0.95
        assert drawn.min() > 0
        assert len(set(drawn)) > 150


def test_a_reference_says_another_text(quantizer: Quantizer, tmp_path: Path) -> None:
    examples = [Example("c001", text, np.zeros((50, BOOKS), np.int16), np.zeros(50)) for text in "ab"]
    pool = ExamplePool(tmp_path, quantizer)
    pool.by_speaker["c001"] = examples
    bank, rng = ReferenceBank(tmp_path, pool, Timbres(quantizer)), np.random.default_rng(0)
    assert {bank.draw("c001", rng, "a")[1] for _ in range(40)} == {"b", None}
    np.savez(
        tmp_path / "c001_0000.npz", texts=np.array(["a", "c"]), offsets=np.array([0, 40, 80]),
        codes=np.ones((80, BOOKS), np.int16),
    )  # fmt: skip
    bank.refresh()
    assert {bank.draw("c001", rng, "a")[1] for _ in range(80)} == {"b", "c", None}


def test_what_older_shards_have_of_a_test_is_not_trained_on(quantizer: Quantizer, tmp_path: Path) -> None:
    tested = held_out_everyday(HELD_OUT)
    texts = [tested[-1], f"Oh. {tested[0]}", "Something else."]
    codes, offsets = np.zeros((120, BOOKS), np.int16), np.array([0, 40, 80, 120])
    for folder in ("shards", "references", "codes"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "codes" / "vera_0000.npy", codes)
    for folder in ("shards", "references"):
        np.savez(
            tmp_path / folder / "vera_0000.npz", texts=np.array(texts), offsets=offsets, codes=codes,
            phonemes=np.zeros(120, np.uint8),
        )  # fmt: skip
    pool = ExamplePool(tmp_path, quantizer)
    pool.refresh()
    assert [example.text for example in pool.by_speaker["vera"]] == texts[2:]
    bank, rng = ReferenceBank(tmp_path / "references", pool, Timbres(quantizer)), np.random.default_rng(0)
    bank.refresh()
    assert {bank.draw("vera", rng, "")[1] for _ in range(40)} == {texts[2], None}


def test_no_text_that_scores_are_made_of_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    bigrams = {"<s>": (list("abcdefgh"), [float(n) for n in range(1, 9)])}
    bigrams |= dict.fromkeys("abcdefgh", bigrams["<s>"])
    source = TextSource(bigrams, 1, everyday=0.3)
    tests = [words for seed in (9001, 9003, 9005, 9006, 9101, 9102) for words in held_out_sus(40, seed)]
    tests += [words for seed in (9002, 9004) for words in held_out_open(40, bigrams, seed)]
    kept = {" ".join(words) for words in tests} | set(held_out_everyday(40))
    offered = iter(tests * 2)
    monkeypatch.setattr("training.texts.sus_sentence", lambda _: next(offered))
    drawn = {source.next().lower().rstrip(".?!").replace(",", "") for _ in range(300)}
    assert len(drawn) > 100
    assert not drawn & {text.lower().rstrip(".?!").replace(",", "") for text in kept}


def test_scattered_speaker_codes_are_partly_right_and_otherwise_near(quantizer: Quantizer) -> None:
    timbres, rng = Timbres(quantizer, near=5), np.random.default_rng(0)
    places = quantizer.books[SPEAKER_BOOK, :, :TIMBRE_DIM]
    codes = np.repeat([0, 17], 200)
    shares = []
    for _ in range(40):
        scattered = timbres.scattered(codes, rng)
        assert (scattered[:200] == 0).all()
        shares.append((scattered[200:] == 17).mean())
    near = (places - places[17]).norm(dim=1).argsort()[:5].tolist()
    assert set(scattered[200:]) <= set(near)
    assert min(shares) < 0.5 < max(shares) < 1


def test_reference_and_target_are_moved_to_the_same_timbre(quantizer: Quantizer) -> None:
    timbres = Timbres(quantizer)
    target, reference = np.array([0, 9, 9, 9]), np.array([9, 0, 9])
    moved = timbres.moved([target, reference], 500)
    assert moved[0].tolist() == [0, 500, 500, 500]
    assert moved[1].tolist() == [500, 0, 500]

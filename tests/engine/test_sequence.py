"""Rows become frames along the diagonal, and codes become rows and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.engine.sequence import delay
from stentor.errors import RequestError
from tests.engine.accounting import make_sequence

BEGIN, END = 1024, 1025


def random_codes(num_frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1024, (num_frames, 8))


@given(num_frames=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_rows_of_delayed_codes_give_the_codes_back(num_frames: int, seed: int) -> None:
    codes = random_codes(num_frames, seed)
    sequence = make_sequence("s", 3, max_rows=num_frames + 7)
    frames = [sequence.append(row) for row in delay(codes, BEGIN, END)]
    assert [len(part) for part in frames] == [0] * 7 + [1] * num_frames
    assert np.array_equal(np.concatenate(frames), codes)
    assert all(part.dtype == np.uint16 and part.shape[1:] == (8,) for part in frames)


def test_the_delay_pattern_is_that_of_the_specification() -> None:
    codes = np.array([[10, 20, 30, 40], [11, 21, 31, 41], [12, 22, 32, 42]])
    b, e = BEGIN, END
    assert delay(codes, b, e).tolist() == [
        [10, b, b, b],
        [11, 20, b, b],
        [12, 21, 30, b],
        [e, 22, 31, 40],
        [e, e, 32, 41],
        [e, e, e, 42],
    ]


def test_codes_that_are_no_matrix_are_refused() -> None:
    with pytest.raises(RequestError, match=r"must be \[num_frames, num_codebooks\]"):
        delay(np.zeros(8, dtype=int), BEGIN, END)


def test_a_frame_that_was_handed_on_does_not_change() -> None:
    codes = random_codes(5, 0)
    sequence = make_sequence("s", 3, max_rows=12)
    frames = [sequence.append(row) for row in delay(codes, BEGIN, END)[:9]]
    before = [part.copy() for part in frames]
    for row in delay(codes, BEGIN, END)[9:]:
        sequence.append(row)
    assert all(np.array_equal(part, copy) for part, copy in zip(frames, before, strict=True))


def test_positions_count_the_rows_that_were_fed_back() -> None:
    sequence = make_sequence("s", 5, max_rows=10)
    counts = [sequence.num_positions]
    for row in np.zeros((3, 8), dtype=np.int64):
        sequence.append(row)
        counts.append(sequence.num_positions)
    assert counts == [5, 5, 6, 7]
    usage = sequence.usage()
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 3)

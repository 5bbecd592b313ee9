"""Our paged attention equals the reference, and keeps the law that a row does not feel its company."""

from dataclasses import replace

import pytest
import torch

from tests.layers.paged import Paged
from tests.layers.triton.interpreted import DEVICE, DTYPES, HALF, assert_close

attention = pytest.importorskip("stentor.layers.triton.attention")

SHAPES = [(4, 2, 16), (6, 1, 24), (32, 8, 128)]


def paged(lengths: list[int], shape: tuple[int, int, int], dtype: torch.dtype) -> Paged:
    return Paged(lengths, shape, dtype, attention.TritonBackend(), device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_prefill_and_decode_equal_the_plain_formula(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    lengths = [1, 16, 17, 290, 64]
    there = paged(lengths, shape, dtype)
    for i, out in enumerate(there.prefill(*((i, 0, n - 1) for i, n in enumerate(lengths) if n > 1)), 1):
        assert_close(out, there.plain(i)[:-1])
    out = there.decode(list(range(5)), num_blocks=20)
    for i in range(5):
        assert_close(out[i], there.plain(i)[-1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_known_prefix_changes_no_bit(dtype: torch.dtype) -> None:
    (expected,) = paged([200], (4, 2, 32), dtype).prefill((0, 0, 200))
    for cut in (16, 48, 64, 199):
        there = paged([200], (4, 2, 32), dtype)
        (begin,) = there.prefill((0, 0, cut))
        (rest,) = there.prefill((0, cut, 200))
        assert_close(torch.cat((begin, rest)), expected)
        if DEVICE != "cpu":  # The interpreter's products round by NumPy's tiles, not by the card's.
            assert torch.equal(torch.cat((begin, rest)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_company_and_the_width_of_the_table_change_no_bit(dtype: torch.dtype) -> None:
    lengths = [20, 201, 300, 5]
    there = paged(lengths, (4, 2, 32), dtype)
    together = there.prefill(*((i, 0, n - 1) for i, n in enumerate(lengths)))
    for i, n in enumerate(lengths):
        assert torch.equal(there.prefill((i, 0, n - 1))[0], together[i])
    batch = there.decode(list(range(4)), num_blocks=24)
    for i in range(4):
        for num_blocks in {-(-lengths[i] // 16), 20, 24, 40}:
            assert torch.equal(there.decode([i], num_blocks)[0], batch[i])


def test_rows_that_pad_a_prefill_are_finite() -> None:
    there = paged([40], (4, 2, 32), HALF)
    (out,) = there.prefill((0, 0, 39), padding=25)
    assert_close(out, there.plain(0)[:39])


def test_the_host_need_not_know_the_spans_of_a_prefill() -> None:
    there = paged([40, 90], (4, 2, 32), torch.float32)
    expected = torch.cat(there.prefill((0, 0, 39), (1, 0, 60)))
    known = there.backend
    there.backend = lambda q, cache, batch: known(q, cache, replace(batch, spans=()))
    assert torch.equal(torch.cat(there.prefill((0, 0, 39), (1, 0, 60))), expected)


def test_a_cache_in_float8_is_read_as_what_it_holds() -> None:
    backend, dtype = attention.TritonBackend(), torch.float8_e4m3fn
    there = Paged([130, 40], (4, 2, 16), torch.float32, backend, cache_dtype=dtype, device=DEVICE)
    for i, out in enumerate(there.prefill((0, 0, 129), (1, 0, 39))):
        assert_close(out, there.plain(i)[:-1])
    for i, out in enumerate(there.decode([0, 1], num_blocks=12)):
        assert_close(out, there.plain(i)[-1])

"""Paged attention equals the plain formula, and a position's result hangs on what it sees alone."""

import pytest
import torch
from torch import Tensor

from tests.layers.paged import Paged

SHAPES = [(4, 2, 16), (6, 1, 24), (8, 8, 8), (8, 2, 32)]
DTYPES = [torch.float32, torch.bfloat16]


def assert_near(actual: Tensor, expected: Tensor) -> None:
    tolerance = 3e-2 if actual.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_prefill_and_decode_equal_the_plain_formula(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    lengths = [1, 16, 17, 130, 64]
    paged = Paged(lengths, shape, dtype)
    for i, out in enumerate(paged.prefill(*((i, 0, n - 1) for i, n in enumerate(lengths) if n > 1)), 1):
        assert_near(out, paged.plain(i)[:-1])
    out = paged.decode(list(range(5)), num_blocks=12)
    for i in range(5):
        assert_near(out[i], paged.plain(i)[-1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_known_prefix_changes_no_bit(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    whole = Paged([200], shape, dtype)
    (expected,) = whole.prefill((0, 0, 200))
    for cut in (16, 48, 64, 80, 192, 199):
        paged = Paged([200], shape, dtype)
        (begin,) = paged.prefill((0, 0, cut))
        (rest,) = paged.prefill((0, cut, 200))
        assert torch.equal(torch.cat((begin, rest)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_company_and_the_width_of_the_table_change_no_bit(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    lengths = [20, 201, 333, 600, 5]
    paged = Paged(lengths, shape, dtype)
    together = paged.prefill(*((i, 0, n - 1) for i, n in enumerate(lengths)))
    for i, n in enumerate(lengths):
        assert torch.equal(paged.prefill((i, 0, n - 1))[0], together[i])
    batch = paged.decode(list(range(5)), num_blocks=48)
    for i in range(5):
        needed = -(-lengths[i] // 64) * 4
        for num_blocks in {needed, needed + 4, needed + 8, 48, 64}:
            assert torch.equal(paged.decode([i], num_blocks)[0], batch[i])


def test_a_cache_in_float8_is_read_as_what_it_holds() -> None:
    paged = Paged([130, 40], (4, 2, 16), torch.float32, cache_dtype=torch.float8_e4m3fn)
    for i, out in enumerate(paged.prefill((0, 0, 129), (1, 0, 39))):
        assert_near(out, paged.plain(i)[:-1])
    for i, out in enumerate(paged.decode([0, 1], num_blocks=12)):
        assert_near(out, paged.plain(i)[-1])

"""Rows rounded to float8 by the kernel are those of the reference."""

import pytest
import torch

from stentor.layers.quantization import round_rows
from tests.layers.triton.interpreted import DEVICE, randn

rounding = pytest.importorskip("stentor.layers.triton.rounding")


@pytest.mark.parametrize(("rows", "size"), [(3, 256), (2, 2560), (1, 48)])
def test_rows_are_rounded_as_the_reference_does(rows: int, size: int) -> None:
    x = randn(rows, size, dtype=torch.bfloat16, scale=30.0)
    rounded, scale = rounding.round_rows(x)
    expected, expected_scale = round_rows(x)
    torch.testing.assert_close(scale, expected_scale)
    ratio = (rounded.float() / expected.float())[expected.float() != 0]
    # The interpreter loses a carry where a card rounds up to the next power of two, and cuts small numbers.
    lowest, highest = (0.45, 1.15) if DEVICE == "cpu" else (1.0, 1.0)
    large = expected.float()[expected.float() != 0].abs() > 0.1
    assert ((ratio[large] >= lowest) & (ratio[large] <= highest)).all()
    assert rounded.dtype == expected.dtype


def test_a_row_of_zeros_stays_one() -> None:
    rounded, scale = rounding.round_rows(randn(1, 64) * 0)
    assert not rounded.float().any()
    assert scale.isfinite().all()

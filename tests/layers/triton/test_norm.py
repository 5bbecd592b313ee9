"""Fused norms equal the reference on fresh inputs."""

import pytest
import torch

from stentor.layers.kernels import EagerKernels
from tests.layers.triton.interpreted import DTYPES, assert_close, randn

norm = pytest.importorskip("stentor.layers.triton.norm")


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize(("rows", "size"), [(1, 2560), (5, 48), (3, 1024)])
def test_norms_equal_the_reference(rows: int, size: int, dtype: torch.dtype) -> None:
    x, delta, weight = (
        randn(rows, size, dtype=dtype),
        randn(rows, size, dtype=dtype),
        randn(size, dtype=dtype),
    )
    eager = EagerKernels()
    assert_close(norm.rms_norm(x, weight, 1e-6), eager.rms_norm(x.double(), weight.double(), 1e-6))
    total, normed = norm.add_rms_norm(x, delta, weight, 1e-6)
    expected_total, expected = eager.add_rms_norm(x.double(), delta.double(), weight.double(), 1e-6)
    assert_close(total, expected_total)
    assert_close(normed, expected)


def test_the_smallest_rows_are_kept_finite_by_epsilon() -> None:
    x, weight = randn(2, 64) * 0, randn(64)
    assert torch.equal(norm.rms_norm(x, weight, 1e-6), x)


def test_rows_that_stand_apart_are_read_where_they_are() -> None:
    x, weight = randn(6, 64)[::2], randn(64)
    assert_close(norm.rms_norm(x, weight, 1e-6), EagerKernels().rms_norm(x, weight, 1e-6))

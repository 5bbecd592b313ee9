"""SwiGLU's gate and the code embedding equal the reference on fresh inputs."""

import pytest
import torch

from stentor.layers.kernels import Kernels, silu_mul
from tests.layers.triton.interpreted import DEVICE, DTYPES, assert_close, randn

pointwise = pytest.importorskip("stentor.layers.triton.pointwise")


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize(("rows", "size"), [(1, 1024), (4, 1500), (3, 40)])
def test_a_gate_equals_the_reference(rows: int, size: int, dtype: torch.dtype) -> None:
    gate_up = randn(rows, 2 * size, dtype=dtype, scale=4.0)
    assert_close(pointwise.silu_mul(gate_up), silu_mul(gate_up.double()))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize("size", [2560, 48])
def test_the_sum_of_codes_equals_the_reference(size: int, dtype: torch.dtype) -> None:
    table = randn(8 * 26, size, dtype=dtype)
    offsets = torch.arange(8, device=DEVICE) * 26
    prompt = torch.randint(-1, 26, (5, 9), device=DEVICE)
    rows = prompt[:, 1:]
    expected = Kernels().embed_codes(rows, offsets, table.double())
    assert_close(pointwise.embed_codes(rows, offsets, table), expected)

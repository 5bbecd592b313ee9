"""What the tests of the kernels share: where they run, fresh inputs, and how far an output may be off."""

import os

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed: pip install 'stentor[kernels]'")

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
# The interpreter does not multiply bfloat16 tiles (it takes their bits for integers); float16 stands in.
HALF = torch.float16 if DEVICE == "cpu" else torch.bfloat16
DTYPES = [torch.float32, HALF]


def randn(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    """Fresh numbers each time: no kernel may be right for one draw only."""
    return (torch.randn(*shape) * scale).to(DEVICE, dtype)


def assert_close(actual: Tensor, reference: Tensor, bound: float | None = None) -> None:
    """`||actual - reference|| / ||reference||` is within the bound, by default one for its arithmetic."""
    if bound is None:
        bound = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 1.5e-2}[actual.dtype]
    assert actual.shape == reference.shape
    error = (actual.double() - reference.double()).norm() / reference.double().norm()
    assert error <= bound, f"relative error {error:.2e} above {bound:.0e}"

"""What the tests of the kernels share: where they run, fresh inputs, and how far an output may be off."""

import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed: pip install 'stentor[kernels]'")
from triton.runtime import interpreter

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
# The interpreter does not multiply bfloat16 tiles (it takes their bits for integers); float16 stands in.
HALF = torch.float16 if DEVICE == "cpu" else torch.bfloat16
DTYPES = [torch.float32, HALF]


def _dot(builder: Any, a: Any, b: Any, d: Any, *how: Any) -> Any:
    """The interpreter's product of two tiles, each row of which is the same wherever it stands.

    On a GPU it is. The interpreter asks NumPy, whose library rounds the rows at a tile's edge otherwise on
    some processors; in float64 that is far below what a float32 can tell.
    """
    if min(a.dtype.primitive_bitwidth, b.dtype.primitive_bitwidth) == 8:
        return _THEIR_DOT(builder, a, b, d, *how)
    product = np.matmul(a.data.astype(np.float64), b.data.astype(np.float64)).astype(d.data.dtype)
    return interpreter.TensorHandle(product + d.data, d.dtype.scalar)


_THEIR_DOT = interpreter.InterpreterBuilder.create_dot
interpreter.InterpreterBuilder.create_dot = _dot


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

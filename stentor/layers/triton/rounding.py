"""Rows of activations rounded to float8, each by its own scale, one program a row."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """See `layers.quantization.round_rows`."""
    x = x.contiguous()
    num_rows, size = x.shape
    rounded = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scale = torch.empty((num_rows, 1), dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(size)
    _round_rows[(num_rows,)](x, rounded, scale, size, BLOCK=block, num_warps=min(max(block // 512, 1), 16))
    return rounded, scale


@triton.jit
def _round_rows(x, rounded, scales, size, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < size
    value = tl.load(x + row * size + column, mask=inside, other=0.0).to(tl.float32)
    # The largest number that float8_e4m3fn can say.
    scale = tl.maximum(tl.max(tl.abs(value), axis=0), 1e-12) / 448.0
    tl.store(rounded + row * size + column, (value / scale).to(rounded.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)

"""What takes a whole row of activations at once, one program a row: RMSNorm and the rounding to float8."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stentor.layers.triton.launches import early, wait_for_previous


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [num_rows, size] / sqrt(mean(x^2) + eps) * weight [size]."""
    x = x.contiguous()
    normed = torch.empty_like(x)
    _norm[(len(x),)](x, weight, normed, x.shape[1], eps, **_whole(x))
    return normed


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """See `layers.quantization.round_rows`."""
    x = x.contiguous()
    rounded = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scale = torch.empty((len(x), 1), dtype=torch.float32, device=x.device)
    _round_rows[(len(x),)](x, rounded, scale, x.shape[1], **_whole(x))
    return rounded, scale


def _whole(x: Tensor) -> dict[str, int]:
    """A program that holds a whole row."""
    block = triton.next_power_of_2(x.shape[1])
    return {"BLOCK": block, "num_warps": min(max(block // 512, 1), 16)} | early(x.device)


@triton.jit
def _norm(x, weight, normed, size, eps, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    wait_for_previous(EARLY)
    column = tl.arange(0, BLOCK)
    inside = column < size
    place = tl.program_id(0).to(tl.int64) * size + column
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / size + eps)
    value *= scale * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + place, value.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _round_rows(x, rounded, scales, size, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    wait_for_previous(EARLY)
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < size
    value = tl.load(x + row * size + column, mask=inside, other=0.0).to(tl.float32)
    # The largest number that float8_e4m3fn can say.
    scale = tl.maximum(tl.max(tl.abs(value), axis=0), 1e-12) / 448.0
    tl.store(rounded + row * size + column, (value / scale).to(rounded.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)

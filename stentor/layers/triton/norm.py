"""RMSNorm, alone or with the residual before it, one program a row."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `Kernels.rms_norm`."""
    x = x.contiguous()
    normed = torch.empty_like(x)
    _launch(x, x, weight, x, normed, eps, add=False)
    return normed


def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `Kernels.add_rms_norm`."""
    x, delta = x.contiguous(), delta.contiguous()
    total, normed = torch.empty_like(x), torch.empty_like(x)
    _launch(x, delta, weight, total, normed, eps, add=True)
    return total, normed


def _launch(x: Tensor, delta: Tensor, weight: Tensor, total: Tensor, normed: Tensor, eps: float, add: bool):
    num_rows, size = x.shape
    block = triton.next_power_of_2(size)
    warps = min(max(block // 512, 1), 16)
    _norm[(num_rows,)](x, delta, weight, total, normed, size, eps, ADD=add, BLOCK=block, num_warps=warps)


@triton.jit
def _norm(x, delta, weight, total, normed, size, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    inside = column < size
    place = tl.program_id(0).to(tl.int64) * size + column
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(delta + place, mask=inside, other=0.0).to(tl.float32)
        # Rounded first: the norm is that of the sum which goes on.
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=inside)
        value = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / size + eps)
    value *= scale * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + place, value.to(normed.dtype.element_ty), mask=inside)

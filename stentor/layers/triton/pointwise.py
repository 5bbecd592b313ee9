"""SwiGLU's gate and the sum of a row's code embeddings: each number by itself, a tile a program."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stentor.layers.triton.launches import early, wait_for_previous

_BLOCK = 1024


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu of the first half of [num_rows, 2 * size] times the second."""
    gate_up = gate_up.contiguous()
    num_rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((num_rows, size), dtype=gate_up.dtype, device=gate_up.device)
    options = {"BLOCK": _BLOCK, "num_warps": 4} | early(out.device)
    _silu_mul[(num_rows, triton.cdiv(size, _BLOCK))](gate_up, out, size, **options)
    return out


def embed_codes(rows: Tensor, offsets: Tensor, table: Tensor) -> Tensor:
    """See `Kernels.embed_codes`."""
    (num_rows, num_codebooks), size = rows.shape, table.shape[1]
    out = torch.empty((num_rows, size), dtype=table.dtype, device=table.device)
    _embed_codes[(num_rows, triton.cdiv(size, _BLOCK))](
        rows, rows.stride(0), rows.stride(1), offsets, table, out, size, NUM_CODEBOOKS=num_codebooks,
        BLOCK=_BLOCK, num_warps=4, **early(out.device),
    )  # fmt: skip
    return out


@triton.jit
def swiglu(gate, up):
    """silu of one float32 times another."""
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit
def _silu_mul(gate_up, out, size, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    wait_for_previous(EARLY)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    gate = tl.load(gate_up + row * 2 * size + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + (row * 2 + 1) * size + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * size + column, swiglu(gate, up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _embed_codes(
    rows, row_stride, code_stride, offsets, table, out, size, NUM_CODEBOOKS: tl.constexpr,
    BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    wait_for_previous(EARLY)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for codebook in tl.static_range(NUM_CODEBOOKS):
        code = tl.load(rows + row * row_stride + codebook * code_stride)
        entry = tl.maximum(code, 0) + tl.load(offsets + codebook)
        total += tl.load(table + entry * size + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * size + column, total.to(out.dtype.element_ty), mask=inside)

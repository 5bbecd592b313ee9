"""SwiGLU's gate, the sum of a row's code embeddings and Snake: each number by itself, a tile a program."""

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


def snake(
    x: Tensor,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    window: tuple[int, int] | None = None,
) -> Tensor:
    """See `Kernels.snake`; x is left as it is."""
    batch, time, channels = x.shape
    first, size = window or (0, time)
    out = torch.empty((batch, size, channels), dtype=x.dtype, device=x.device)
    columns = min(triton.next_power_of_2(channels), 128)
    steps = 2 * _BLOCK // columns
    _snake[(triton.cdiv(size, steps), triton.cdiv(channels, columns), batch)](
        x, *x.stride(), scale, bias, lengths, out, first, time, size, channels, STEPS=steps, COLUMNS=columns,
        num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _silu_mul(gate_up, out, size, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    wait_for_previous(EARLY)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    gate = tl.load(gate_up + row * 2 * size + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + (row * 2 + 1) * size + column, mask=inside, other=0.0).to(tl.float32)
    value = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * size + column, value.to(out.dtype.element_ty), mask=inside)


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


@triton.jit
def _squared_sine(u):
    """sin²(u), to 3e-7 for |u| < 1000: a whole sine takes a card longer than to read and write the number.

    Squared, it has the period pi: what is left of u in three steps (the parts of pi are Cephes'), goes into
    SLEEF's polynomial for [-pi / 2, pi / 2].
    """
    turns = tl.floor(u * 0.3183098861837907 + 0.5)
    rest = u - turns * 3.140625
    rest -= turns * 9.6750259399414062e-4
    rest -= turns * 1.509957990978376e-7
    square = rest * rest
    odd = 2.6083159809786593e-6 * square - 1.981069071916863e-4
    odd = odd * square + 8.333078585565090e-3
    odd = odd * square - 1.6666659712791443e-1
    sine = odd * square * rest + rest
    # Where float32 holds no angle any more, it is some number that a sine could be.
    return tl.minimum(sine * sine, 1.0)


@triton.jit(do_not_specialize=["first", "time", "size"])
def _snake(
    x, batch_stride, time_stride, channel_stride, scale, bias, lengths, out, first, time, size, channels,
    STEPS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(2).to(tl.int64)
    step = tl.program_id(0).to(tl.int64) * STEPS + tl.arange(0, STEPS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    place, inside = first + step, column < channels
    end = time
    if lengths is not None:
        end = tl.minimum(time, tl.load(lengths + batch))
    known = ((place >= 0) & (place < end))[:, None] & inside[None, :]
    here = x + batch * batch_stride + place[:, None] * time_stride + column[None, :] * channel_stride
    u = tl.load(here, mask=known, other=0.0).to(tl.float32)
    if scale is not None:
        u *= tl.load(scale + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    if bias is not None:
        u += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    value = tl.where(known, u + _squared_sine(u), 0.0).to(out.dtype.element_ty)
    there = out + (batch * size + step[:, None]) * channels + column[None, :]
    tl.store(there, value, mask=(step < size)[:, None] & inside[None, :])

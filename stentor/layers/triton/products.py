"""Products of few rows with a large weight, whatever it is kept in: bound by reading the weight once.

The weight's rows take the place of a tile's rows (there are always enough of them), the few rows of x that of
its columns. Where the weight has too few rows to keep the card busy, its columns are split as well, and the
program that comes last adds up all parts, in their order: the result does not hang on who that is.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stentor.layers.quantization import INT4_GROUP

# The kernel takes up to this many rows of x; more are for tensor-core libraries.
MOST_ROWS = 64
_COLUMNS = 64
# An int4 group is one step along the columns.
_INNER = INT4_GROUP
# Programs that keep an H100 busy: twice its multiprocessors. Fixed, so that the order of a sum is.
_PROGRAMS = 264


class SkinnyProduct:
    """x @ weight.T for a weight [out_features, in_features] and at most `MOST_ROWS` rows.

    `weight` may be floating, or what `layers.quantization.Quantized` keeps: int8 or float8_e4m3fn with
    `scale` float32 [out_features], or int4 in pairs with `scale` [out_features, in_features / INT4_GROUP].
    """

    def __init__(self, weight: Tensor, scale: Tensor | None = None) -> None:
        self._weight = weight.contiguous()
        self._scale = scale
        self._packed = weight.dtype == torch.uint8
        self._inner = weight.shape[1] * (2 if self._packed else 1)
        tiles = triton.cdiv(len(weight), _COLUMNS)
        most_splits = max(1, self._inner // (2 * _INNER))
        self._splits = min(triton.next_power_of_2(triton.cdiv(_PROGRAMS, tiles)), most_splits, 16)
        # Counts the parts of a tile that are there; whoever adds them up sets it back.
        self._arrived = torch.zeros(tiles, dtype=torch.int32, device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        """[num_rows, in_features] to [num_rows, out_features]."""
        num_rows, num_columns = len(x), len(self._weight)
        assert num_rows <= MOST_ROWS
        x = x if x.stride(-1) == 1 else x.contiguous()
        rows = max(16, triton.next_power_of_2(num_rows))
        out = torch.empty((num_rows, num_columns), dtype=x.dtype, device=x.device)
        parts = out
        if self._splits > 1:
            size = (self._splits, num_columns, rows)
            parts = torch.empty(size, dtype=torch.float32, device=x.device)
        _skinny_product[(len(self._arrived), self._splits)](
            x,
            x.stride(0),
            self._weight,
            self._scale if self._scale is not None else self._weight,
            out,
            parts,
            self._arrived,
            num_rows,
            num_columns,
            self._inner,
            ROWS=rows,
            COLUMNS=_COLUMNS,
            INNER=_INNER,
            SPLITS=self._splits,
            SCALED=self._scale is not None,
            PACKED=self._packed,
            num_warps=4,
            num_stages=4,
        )
        return out


@triton.jit
def _skinny_product(
    x,
    x_stride,
    weight,
    scale,
    out,
    parts,
    arrived,
    num_rows,
    num_columns,
    inner,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    SPLITS: tl.constexpr,
    SCALED: tl.constexpr,
    PACKED: tl.constexpr,
):
    tile, split = tl.program_id(0), tl.program_id(1)
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.arange(0, ROWS)
    share = tl.cdiv(tl.cdiv(inner, INNER), SPLITS) * INNER
    begin = split * share
    end = min(begin + share, inner)
    if PACKED:
        total = _packed_part(
            x, x_stride, weight, scale, num_rows, num_columns, inner, column, row, begin, end, INNER
        )
    else:
        total = _part(x, x_stride, weight, num_rows, num_columns, inner, column, row, begin, end, INNER)
    within = (column < num_columns)[:, None] & (row < num_rows)[None, :]
    if SPLITS > 1:
        there = parts + column[:, None] * ROWS + row[None, :]
        known = (column < num_columns)[:, None] & (row >= 0)[None, :]
        tl.store(there + split * num_columns * ROWS, total, mask=known)
        # All threads of this program have written before one of them says so.
        tl.debug_barrier()
        is_last = tl.atomic_add(arrived + tile, 1, sem="acq_rel") == SPLITS - 1
        if is_last:
            total = tl.zeros((COLUMNS, ROWS), tl.float32)
            for part in tl.static_range(SPLITS):
                # From the second-level cache, where the others' parts are.
                here = there + part * num_columns * ROWS
                total += tl.load(here, mask=known, other=0.0, cache_modifier=".cg")
            tl.store(arrived + tile, 0)
            _write(total, scale, out, num_columns, column, row, within, SCALED and not PACKED)
    else:
        _write(total, scale, out, num_columns, column, row, within, SCALED and not PACKED)


@triton.jit
def _part(x, x_stride, weight, num_rows, num_columns, inner, column, row, begin, end, INNER: tl.constexpr):
    total = tl.zeros((column.shape[0], row.shape[0]), tl.float32)
    line = weight + column.to(tl.int64)[:, None] * inner
    for start in range(begin, end, INNER):
        k = start + tl.arange(0, INNER)
        known = (column < num_columns)[:, None] & (k < end)[None, :]
        w = tl.load(line + k[None, :], mask=known, other=0.0, eviction_policy="evict_first")
        there = (row < num_rows)[None, :] & (k < end)[:, None]
        a = tl.load(x + row[None, :] * x_stride + k[:, None], mask=there, other=0.0)
        total = tl.dot(w.to(a.dtype), a, total, input_precision="ieee")
    return total


@triton.jit
def _packed_part(
    x, x_stride, weight, scale, num_rows, num_columns, inner, column, row, begin, end, INNER: tl.constexpr
):
    total = tl.zeros((column.shape[0], row.shape[0]), tl.float32)
    line = weight + column.to(tl.int64)[:, None] * (inner // 2)
    half = tl.arange(0, INNER // 2)
    for start in range(begin, end, INNER):
        known = (column < num_columns)[:, None] & (half >= 0)[None, :]
        pair = tl.load(line + start // 2 + half[None, :], mask=known, other=0, eviction_policy="evict_first")
        there = (row < num_rows)[None, :] & (half >= 0)[:, None]
        here = x + row[None, :] * x_stride + start + half[:, None]
        low = tl.load(here, mask=there, other=0.0)
        high = tl.load(here + INNER // 2, mask=there, other=0.0)
        group = tl.dot(((pair & 15).to(tl.int8) - 8).to(low.dtype), low, input_precision="ieee")
        group += tl.dot(((pair >> 4).to(tl.int8) - 8).to(low.dtype), high, input_precision="ieee")
        place = scale + column * (inner // INNER) + start // INNER
        total += group * tl.load(place, mask=column < num_columns, other=0.0)[:, None]
    return total


@triton.jit
def _write(total, scale, out, num_columns, column, row, within, SCALED: tl.constexpr):
    if SCALED:
        total *= tl.load(scale + column, mask=column < num_columns, other=0.0)[:, None]
    place = out + row[None, :].to(tl.int64) * num_columns + column[:, None]
    tl.store(place, total.to(out.dtype.element_ty), mask=within)

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
from stentor.layers.triton.arrivals import is_last
from stentor.layers.triton.tiles import Tile, tile_for

# The kernel takes up to this many rows of x; more are for tensor-core libraries.
MOST_ROWS = 64


class SkinnyProduct:
    """x @ weight.T for a weight [out_features, in_features] and at most `MOST_ROWS` rows.

    `weight` may be floating, or what `layers.quantization.Quantized` keeps: int8 or float8_e4m3fn with
    `scale` float32 [out_features], or int4 in pairs with `scale` [out_features, in_features / INT4_GROUP].
    A `gated` product gives SwiGLU of it at once: silu of its first half of columns times the second.
    """

    def __init__(
        self, weight: Tensor, scale: Tensor | None = None, *, gated: bool = False, tile: Tile | None = None
    ) -> None:
        self._weight = weight.contiguous()
        self._scale = scale
        self._gated = gated
        self._packed = weight.dtype == torch.uint8
        self._inner = weight.shape[1] * (2 if self._packed else 1)
        self._columns = len(weight) // (2 if gated else 1)
        self._tile = tile or tile_for(weight, gated)
        # An int4 group is one step along the columns.
        self._step = INT4_GROUP if self._packed else self._tile.inner
        tiles = triton.cdiv(self._columns, self._tile.columns)
        most_splits = max(1, self._inner // (2 * self._step))
        wanted = triton.next_power_of_2(triton.cdiv(self._tile.programs, tiles))
        self._splits = min(wanted, most_splits, 16)
        # Counts the parts of a tile that are there; whoever adds them up sets it back.
        self._arrived = torch.zeros(tiles, dtype=torch.int32, device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        """[num_rows, in_features] to [num_rows, out_features], or half of it if it is gated."""
        num_rows = len(x)
        assert num_rows <= MOST_ROWS
        x = x if x.stride(-1) == 1 else x.contiguous()
        rows = max(16, triton.next_power_of_2(num_rows))
        out = torch.empty((num_rows, self._columns), dtype=x.dtype, device=x.device)
        parts = None
        if self._splits > 1:
            size = (self._splits, len(self._weight), rows)
            parts = torch.empty(size, dtype=torch.float32, device=x.device)
        _skinny_product[(len(self._arrived), self._splits)](
            x,
            x.stride(0),
            self._weight,
            self._scale,
            out,
            parts,
            self._arrived,
            num_rows,
            self._columns,
            self._inner,
            ROWS=rows,
            COLUMNS=self._tile.columns,
            INNER=self._step,
            SPLITS=self._splits,
            PACKED=self._packed,
            GATED=self._gated,
            num_warps=self._tile.warps,
            num_stages=self._tile.stages,
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
    PACKED: tl.constexpr,
    GATED: tl.constexpr,
):
    tile, split = tl.program_id(0), tl.program_id(1)
    column, row = tile * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, ROWS)
    known = column < num_columns
    share = tl.cdiv(tl.cdiv(inner, INNER), SPLITS) * INNER
    begin, end = split * share, min(split * share + share, inner)
    total = _sum(x, x_stride, weight, scale, num_rows, inner, column, known, row, begin, end, INNER, PACKED)
    # The other half of a gated weight stands below the first.
    below = column + num_columns
    other = total
    if GATED:
        other = _sum(
            x, x_stride, weight, scale, num_rows, inner, below, known, row, begin, end, INNER, PACKED
        )
    finishes = True
    if SPLITS > 1:
        half = num_columns * ROWS
        whole = 2 * half if GATED else half
        there = parts + column[:, None] * ROWS + row[None, :]
        tl.store(there + split * whole, total, mask=known[:, None])
        if GATED:
            tl.store(there + split * whole + half, other, mask=known[:, None])
        finishes = is_last(arrived + tile, SPLITS)
        if finishes:
            total = _joined(there, whole, known, SPLITS)
            other = _joined(there + half, whole, known, SPLITS) if GATED else total
    if finishes:
        if scale is not None and not PACKED:
            total *= tl.load(scale + column, mask=known, other=0.0)[:, None]
        if GATED:
            if scale is not None and not PACKED:
                other *= tl.load(scale + below, mask=known, other=0.0)[:, None]
            total = total / (1.0 + tl.exp(-total)) * other
        place = out + row[None, :].to(tl.int64) * num_columns + column[:, None]
        tl.store(place, total.to(out.dtype.element_ty), mask=known[:, None] & (row < num_rows)[None, :])


@triton.jit
def _joined(there, whole, known, SPLITS: tl.constexpr):
    """All parts of a sum in their order."""
    total = tl.load(there, mask=known[:, None], other=0.0, cache_modifier=".cg")
    for part in tl.static_range(1, SPLITS):
        total += tl.load(there + part * whole, mask=known[:, None], other=0.0, cache_modifier=".cg")
    return total


@triton.jit
def _sum(
    x,
    x_stride,
    weight,
    scale,
    num_rows,
    inner,
    column,
    known,
    row,
    begin,
    end,
    INNER: tl.constexpr,
    PACKED: tl.constexpr,
):
    """The inner columns from `begin` to `end` of a tile: [columns, rows]."""
    total = tl.zeros((column.shape[0], row.shape[0]), tl.float32)
    line, here = weight + column.to(tl.int64)[:, None] * inner, x + row[None, :] * x_stride
    if PACKED:
        line = weight + column.to(tl.int64)[:, None] * (inner // 2)
    asked = (row < num_rows)[None, :]
    for start in range(begin, end, INNER):
        if PACKED:
            half = tl.arange(0, INNER // 2)
            there = line + start // 2 + half[None, :]
            pair = tl.load(there, mask=known[:, None], other=0, eviction_policy="evict_first")
            low = tl.load(here + start + half[:, None], mask=asked, other=0.0)
            high = tl.load(here + start + INNER // 2 + half[:, None], mask=asked, other=0.0)
            group = tl.dot(((pair & 15).to(tl.int8) - 8).to(low.dtype), low, input_precision="ieee")
            group += tl.dot(((pair >> 4).to(tl.int8) - 8).to(low.dtype), high, input_precision="ieee")
            place = scale + column * (inner // INNER) + start // INNER
            total += group * tl.load(place, mask=known, other=0.0)[:, None]
        else:
            k = start + tl.arange(0, INNER)
            within = known[:, None] & (k < end)[None, :]
            w = tl.load(line + k[None, :], mask=within, other=0.0, eviction_policy="evict_first")
            a = tl.load(here + k[:, None], mask=asked & (k < end)[:, None], other=0.0)
            total = tl.dot(w.to(a.dtype), a, total, input_precision="ieee")
    return total

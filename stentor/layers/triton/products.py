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
from stentor.layers.triton.launches import early, fetch, wait_for_previous
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
        tiles = triton.cdiv(len(weight), self._tile.lines)
        most_splits = max(1, self._inner // (2 * self._step))
        self._splits = min(max(1, round(self._tile.programs / tiles)), most_splits, 16)
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
            size = (self._splits, num_rows, len(self._weight))
            parts = torch.empty(size, dtype=torch.float32, device=x.device)
        _skinny_product[(len(self._arrived), self._splits)](
            x, x.stride(0), self._weight, self._scale, out, parts, self._arrived, num_rows, self._columns,
            self._inner, ROWS=rows, LINES=self._tile.lines, INNER=self._step, SPLITS=self._splits,
            PACKED=self._packed, GATED=self._gated, num_warps=self._tile.warps, num_stages=self._tile.stages,
            **early(x.device),
        )  # fmt: skip
        return out


# One kernel for one row and for several.
@triton.jit(do_not_specialize=["num_rows"])
def _skinny_product(
    x, x_stride, weight, scale, out, parts, arrived, num_rows, num_columns, inner, ROWS: tl.constexpr,
    LINES: tl.constexpr, INNER: tl.constexpr, SPLITS: tl.constexpr, PACKED: tl.constexpr,
    GATED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0), tl.program_id(1)
    # Results, and the lines of the weight that they are of: of a gated one two each, side by side here.
    result, row = tile * LINES + tl.arange(0, LINES), tl.arange(0, ROWS)
    line, num_results = result, num_columns
    if GATED:
        line, num_results = result // 2 + result % 2 * num_columns, 2 * num_columns
    known = result < num_results
    share = tl.cdiv(tl.cdiv(inner, INNER), SPLITS) * INNER
    begin, end = split * share, min(split * share + share, inner)
    if EARLY:
        # What is read first, of weights that nobody writes.
        stride = inner // 2 if PACKED else inner
        first = weight + line.to(tl.int64) * stride + (begin // 2 if PACKED else begin)
        fetch(first, weight + num_results.to(tl.int64) * stride - 1, 1024)
    wait_for_previous(EARLY)
    total = _sum(x, x_stride, weight, scale, num_rows, inner, line, known, row, begin, end, INNER, PACKED)
    asked = (row < num_rows)[None, :]
    finishes = True
    if SPLITS > 1:
        whole = num_rows * num_results
        there = parts + row[None, :] * num_results + result[:, None]
        tl.store(there + split * whole, total, mask=known[:, None] & asked)
        finishes = is_last(arrived + tile, SPLITS)
        if finishes:
            total = _joined(there, whole, known[:, None] & asked, SPLITS)
    if finishes:
        if scale is not None and not PACKED:
            total *= tl.load(scale + line, mask=known, other=0.0)[:, None]
        if GATED:
            gate, up = tl.split(tl.permute(tl.reshape(total, (LINES // 2, 2, ROWS)), (0, 2, 1)))
            column = tile * (LINES // 2) + tl.arange(0, LINES // 2)
            _store(out, gate / (1.0 + tl.exp(-gate)) * up, column, row, num_columns, num_rows)
        else:
            _store(out, total, result, row, num_columns, num_rows)


@triton.jit
def _store(out, value, column, row, num_columns, num_rows):
    place = out + row[None, :].to(tl.int64) * num_columns + column[:, None]
    within = (column < num_columns)[:, None] & (row < num_rows)[None, :]
    tl.store(place, value.to(out.dtype.element_ty), mask=within)


@triton.jit
def _joined(there, whole, asked, SPLITS: tl.constexpr):
    """All parts of a sum in their order."""
    total = tl.load(there, mask=asked, other=0.0, cache_modifier=".cg")
    for part in tl.static_range(1, SPLITS):
        total += tl.load(there + part * whole, mask=asked, other=0.0, cache_modifier=".cg")
    return total


@triton.jit
def _sum(
    x, x_stride, weight, scale, num_rows, inner, line, known, row, begin, end, INNER: tl.constexpr,
    PACKED: tl.constexpr,
):  # fmt: skip
    """The inner columns from `begin` to `end` of a tile: [lines, rows]."""
    total = tl.zeros((line.shape[0], row.shape[0]), tl.float32)
    here = x + row[None, :] * x_stride
    stride = inner // 2 if PACKED else inner
    start_of = weight + line.to(tl.int64)[:, None] * stride
    asked = (row < num_rows)[None, :]
    for start in range(begin, end, INNER):
        if PACKED:
            half = tl.arange(0, INNER // 2)
            there = start_of + start // 2 + half[None, :]
            pair = tl.load(there, mask=known[:, None], other=0, eviction_policy="evict_first")
            low = tl.load(here + start + half[:, None], mask=asked, other=0.0)
            high = tl.load(here + start + INNER // 2 + half[:, None], mask=asked, other=0.0)
            group = tl.dot(((pair & 15).to(tl.int8) - 8).to(low.dtype), low, input_precision="ieee")
            group += tl.dot(((pair >> 4).to(tl.int8) - 8).to(low.dtype), high, input_precision="ieee")
            place = scale + line * (inner // INNER) + start // INNER
            total += group * tl.load(place, mask=known, other=0.0)[:, None]
        else:
            k = start + tl.arange(0, INNER)
            within = known[:, None] & (k < end)[None, :]
            w = tl.load(start_of + k[None, :], mask=within, other=0.0, eviction_policy="evict_first")
            a = tl.load(here + k[:, None], mask=asked & (k < end)[:, None], other=0.0)
            total = tl.dot(w.to(a.dtype), a, total, input_precision="ieee")
    return total

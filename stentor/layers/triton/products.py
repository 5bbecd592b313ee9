"""Products of few rows with a large weight, whatever it is kept in: bound by reading the weight once.

The weight's rows take the place of a tile's rows (there are always enough of them), the few rows of x that of
its columns. Where the weight has too few rows to keep the card busy, its columns are split as well, and the
program that comes last adds up all parts, in their order: the result does not hang on who that is.

A lone row needs no tensor cores: what its product takes of a card's shared memory is the weight alone, so all
of it holds what is on its way. There one or two programs a multiprocessor read their shares of the weight
from end to end, and take in the norm before the product and the sum behind it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stentor.layers.linear import Norm
from stentor.layers.quantization import INT4_GROUP
from stentor.layers.triton.arrivals import is_last
from stentor.layers.triton.launches import early, fetch, wait_for_previous
from stentor.layers.triton.pointwise import swiglu
from stentor.layers.triton.rows import rms_norm
from stentor.layers.triton.tiles import Tile, known_tile, tile_for

# The kernel takes up to this many rows of x; more are for tensor-core libraries.
MOST_ROWS = 64


class SkinnyProduct:
    """x @ weight.T for a weight [out_features, in_features] and at most `MOST_ROWS` rows.

    `weight` may be floating, or what `layers.quantization.Quantized` keeps: int8 or float8_e4m3fn with
    `scale` float32 [out_features], or int4 in pairs with `scale` [out_features, in_features / INT4_GROUP].
    With a `norm` the product is of x's RMSNorm. A `gated` one gives SwiGLU of it at once: silu of its first
    half of columns times the second. Where the tile of a lone row is known, one sums in an order of its own.
    """

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor | None = None,
        *,
        gated: bool = False,
        norm: Norm | None = None,
        tile: Tile | None = None,
        lone: Tile | None = None,
    ) -> None:
        assert weight.numel() < 1 << 31, "offsets are of 32 bits"
        self._weight = weight.contiguous()
        self._scale = scale
        self._gated = gated
        self._norm = norm
        self._packed = weight.dtype == torch.uint8
        self._inner = weight.shape[1] * (2 if self._packed else 1)
        self._columns = len(weight) // (2 if gated else 1)
        self.use(tile or tile_for(weight, gated), lone or known_tile(weight, gated, lone=True))

    def use(self, tile: Tile, lone: Tile | None) -> None:
        """Take these tiles from now on."""
        self._tile, self._lone = tile, lone
        # An int4 group is one step along the columns.
        self._step = INT4_GROUP if self._packed else tile.inner
        tiles = triton.cdiv(len(self._weight), tile.lines)
        most_splits = max(1, self._inner // (2 * self._step))
        self._splits = min(max(1, round(tile.programs / tiles)), most_splits, 16)
        # Counts the parts of a tile that are there; whoever adds them up sets it back.
        self._arrived = torch.zeros(tiles, dtype=torch.int32, device=self._weight.device)

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """[num_rows, in_features] to [num_rows, out_features], or half of it if it is gated; `plus`, if any,
        is added to it.
        """
        num_rows = len(x)
        assert num_rows <= MOST_ROWS
        x = x if x.stride(-1) == 1 else x.contiguous()
        plus = plus if plus is None else plus.contiguous()
        out = torch.empty((num_rows, self._columns), dtype=x.dtype, device=x.device)
        if num_rows == 1 and self._lone is not None:
            self._of_one(x, plus, out, self._lone)
        else:
            self._of_several(x if self._norm is None else rms_norm(x, *self._norm), plus, out)
        return out

    def _of_one(self, x: Tensor, plus: Tensor | None, out: Tensor, tile: Tile) -> None:
        norm, eps = self._norm or (None, 0.0)
        _lone_product[(min(tile.programs, self._columns),)](
            x, norm, eps, self._weight, self._scale, plus, out, self._columns, self._inner, LINES=tile.lines,
            INNER=tile.inner, EVEN=self._inner % tile.inner == 0, GATED=self._gated, STAGES=tile.stages,
            num_warps=tile.warps, **early(x.device),
        )  # fmt: skip

    def _of_several(self, x: Tensor, plus: Tensor | None, out: Tensor) -> None:
        num_rows, parts = len(x), None
        if self._splits > 1:
            size = (self._splits, num_rows, len(self._weight))
            parts = torch.empty(size, dtype=torch.float32, device=x.device)
        _skinny_product[(len(self._arrived), self._splits)](
            x, x.stride(0), self._weight, self._scale, plus, out, parts, self._arrived, num_rows,
            self._columns, self._inner, ROWS=max(16, triton.next_power_of_2(num_rows)),
            LINES=self._tile.lines, INNER=self._step, SPLITS=self._splits, PACKED=self._packed,
            GATED=self._gated, num_warps=self._tile.warps, num_stages=self._tile.stages, **early(x.device),
        )  # fmt: skip


@triton.jit
def _lone_product(
    x, norm, eps, weight, scale, plus, out, num_columns, inner, LINES: tl.constexpr, INNER: tl.constexpr,
    EVEN: tl.constexpr, GATED: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    # This program's columns of the result, and how many of them are in each of its tiles.
    first = tl.program_id(0) * num_columns // tl.num_programs(0)
    own = (tl.program_id(0) + 1) * num_columns // tl.num_programs(0) - first
    most: tl.constexpr = LINES // 2 if GATED else LINES
    tiles, steps = tl.cdiv(own, most), tl.cdiv(inner, INNER)
    each = tl.cdiv(own, tiles)
    # The column that a line of a tile is for, and where that line is: of a gated product's two side by side.
    k, part = tl.arange(0, INNER), tl.arange(0, LINES)
    column, line = part, part
    if GATED:
        column, line = part // 2, part // 2 + part % 2 * num_columns
    wait_for_previous(EARLY)
    total, squares = tl.zeros((LINES, INNER), tl.float32), tl.zeros((INNER,), tl.float32)
    tile, step = 0, -1
    # One loop over all tiles, so that none waits for its first weights.
    for _ in tl.range(0, tiles * steps, num_stages=STAGES):
        tile = tl.where(step == steps - 1, tile + 1, tile)
        step = tl.where(step == steps - 1, 0, step + 1)
        begin, start = first + tile * each, step * INNER
        size = min(each, first + own - begin)
        there, wanted = line[:, None] * inner + k[None, :], (column < size)[:, None]
        if not EVEN:
            wanted = wanted & (start + k < inner)[None, :]
        lines = weight + begin.to(tl.int64) * inner + start
        w = tl.load(lines + there, mask=wanted, other=0.0, eviction_policy="evict_first")
        a = tl.load(x + start + k, mask=None if EVEN else start + k < inner).to(tl.float32)
        if norm is not None:
            squares += a * a
            a *= tl.load(norm + start + k, mask=None if EVEN else start + k < inner).to(tl.float32)
        total += w.to(tl.float32) * a[None, :]
        if step == steps - 1:
            value = tl.sum(total, axis=1)
            if norm is not None:
                value *= tl.rsqrt(tl.sum(squares, axis=0) / inner + eps)
            if scale is not None:
                value *= tl.load(scale + begin + line, mask=column < size, other=0.0)
            if GATED:
                gate, up = tl.split(tl.reshape(value, (most, 2)))
                value = swiglu(gate, up)
            result = tl.arange(0, most)
            if plus is not None:
                value += tl.load(plus + begin + result, mask=result < size, other=0.0).to(tl.float32)
            tl.store(out + begin + result, value.to(out.dtype.element_ty), mask=result < size)
            total, squares = tl.zeros((LINES, INNER), tl.float32), tl.zeros((INNER,), tl.float32)


# One kernel for one row and for several.
@triton.jit(do_not_specialize=["num_rows"])
def _skinny_product(
    x, x_stride, weight, scale, plus, out, parts, arrived, num_rows, num_columns, inner, ROWS: tl.constexpr,
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
            _store(out, plus, swiglu(gate, up), column, row, num_columns, num_rows)
        else:
            _store(out, plus, total, result, row, num_columns, num_rows)


@triton.jit
def _store(out, plus, value, column, row, num_columns, num_rows):
    place = row[None, :].to(tl.int64) * num_columns + column[:, None]
    within = (column < num_columns)[:, None] & (row < num_rows)[None, :]
    if plus is not None:
        value += tl.load(plus + place, mask=within, other=0.0).to(tl.float32)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=within)


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
            total = tl.dot(_widened(w, a), a, total, input_precision="ieee")
    return total


@triton.jit
def _widened(w, like):
    """Weights in the arithmetic of `like`.

    float8_e4m3fn in bfloat16 by its bits, four to a call, because the card's own conversion is slower than
    its memory: sign, exponent and mantissa are moved to where bfloat16 has them, which makes each number
    2^120 times too small, subnormal ones too. There are no NaNs among weights.
    """
    if w.dtype == tl.float8e4nv and like.dtype == tl.bfloat16:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 low, high, sign, grow, none;
            mov.b32 grow, 0x7B807B80;
            mov.b32 none, 0x80008000;
            prmt.b32 low, $2, 0, 0x1404;
            prmt.b32 high, $2, 0, 0x3424;
            and.b32 sign, low, 0x80008000;
            shr.u32 low, low, 4;
            lop3.b32 low, low, 0x07F007F0, sign, 0xEA;
            fma.rn.bf16x2 $0, low, grow, none;
            and.b32 sign, high, 0x80008000;
            shr.u32 high, high, 4;
            lop3.b32 high, high, 0x07F007F0, sign, 0xEA;
            fma.rn.bf16x2 $1, high, grow, none;
            }""",
            "=r,=r,r", [w], dtype=tl.bfloat16, is_pure=True, pack=4,
        )  # fmt: skip
    return w.to(like.dtype)

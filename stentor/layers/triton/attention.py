"""Paged grouped-query attention: decode with split keys, joined by whoever comes last, and causal prefill.

The law of docs/decisions/0006 by this backend's own means: keys are taken in splits and tiles that begin at
fixed positions, and a row sums over its own in one order, so what stands beside it, how wide its table is and
where its cached prefix ends change no bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stentor.layers.context import Batch, DecodeBatch, PrefillBatch
from stentor.layers.triton.arrivals import counters, is_last
from stentor.layers.triton.launches import early, wait_for_previous

# Keys that one program of a decode step takes; more programs run where there are few sequences.
_SPLIT = tl.constexpr(128)
_KEY_TILE = tl.constexpr(64)
_QUERY_TILE = tl.constexpr(64)
# Tensor cores multiply tiles of at least this many rows and columns.
_SMALLEST_TILE = 16


class TritonBackend:
    """Implements `AttentionBackend` with kernels that need nothing but what comes with PyTorch for CUDA."""

    gathers = False
    plans = False

    def __call__(self, q: Tensor, cache: Tensor, batch: Batch) -> Tensor:
        """See `AttentionBackend`."""
        return _decode(q, cache, batch) if isinstance(batch, DecodeBatch) else _prefill(q, cache, batch)


def _decode(q: Tensor, cache: Tensor, batch: DecodeBatch) -> Tensor:
    size, num_heads, head_dim = q.shape
    num_blocks, block_size = batch.block_tables.shape[1], cache.shape[1]
    num_kv_heads, num_splits = cache.shape[2] // 2, triton.cdiv(num_blocks * block_size, _SPLIT.value)
    group = num_heads // num_kv_heads
    block_dim = max(triton.next_power_of_2(head_dim), _SMALLEST_TILE)
    partial = torch.empty((size, num_heads, num_splits, head_dim), dtype=torch.float32, device=q.device)
    # The largest score and the sum of weights of each split.
    sums = torch.empty((size, num_heads, num_splits, 2), dtype=torch.float32, device=q.device)
    out = torch.empty((size, num_heads * head_dim), dtype=q.dtype, device=q.device)
    _decode_split[(size, num_kv_heads, num_splits)](
        q, q.stride(0), cache, batch.positions, batch.block_tables, batch.block_tables.stride(0), partial,
        sums, counters(size * num_kv_heads, q.device), out, block_size, head_dim,
        head_dim**-0.5 * 1.4426950408889634, GROUP=group,
        ROWS=max(triton.next_power_of_2(group), _SMALLEST_TILE), DIM=block_dim, num_warps=4, num_stages=2,
        **early(q.device),
    )  # fmt: skip
    return out


def _prefill(q: Tensor, cache: Tensor, batch: PrefillBatch) -> Tensor:
    num_tokens, num_heads, head_dim = q.shape
    # Zeros, for the rows that pad the batch.
    out = torch.zeros((num_tokens, num_heads * head_dim), dtype=q.dtype, device=q.device)
    _prefill_tile[(triton.cdiv(batch.longest, _QUERY_TILE.value), num_heads, len(batch.contexts))](
        q, q.stride(0), cache, batch.starts, batch.contexts, batch.block_tables,
        batch.block_tables.stride(0), out, cache.shape[1], cache.shape[2] // 2, head_dim,
        head_dim**-0.5 * 1.4426950408889634, DIM=max(triton.next_power_of_2(head_dim), _SMALLEST_TILE),
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return out


@triton.jit
def _attend(query, own, keys, table, begin, end, length, block_size, num_kv_heads, head_dim, scale):
    """The tiles of keys from `begin` to `end` for some rows, each of which sees those up to its `own` place.

    `keys` is the cache at the head's first key, `length` what it holds of the sequence. Gives each row's sums
    of values and of weights, and its largest score.
    """
    column = tl.arange(0, query.shape[1])
    best = tl.full((query.shape[0],), float("-inf"), tl.float32)
    weight = tl.zeros((query.shape[0],), tl.float32)
    total = tl.zeros(query.shape, tl.float32)
    for start in range(begin, end, _KEY_TILE):
        position = start + tl.arange(0, _KEY_TILE)
        block = tl.load(table + position // block_size, mask=position < length, other=0)
        flat = block * block_size + position % block_size
        there = keys + (flat * (2 * num_kv_heads * head_dim))[:, None] + column[None, :]
        known = (position < length)[:, None] & (column < head_dim)[None, :]
        key = tl.load(there, mask=known, other=0.0).to(query.dtype)
        value = tl.load(there + num_kv_heads * head_dim, mask=known, other=0.0).to(query.dtype)
        score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        score = tl.where(position[None, :] <= own[:, None], score, float("-inf"))
        higher = tl.maximum(best, tl.max(score, axis=1))
        shrink = tl.exp2(best - higher)
        chance = tl.exp2(score - higher[:, None])
        weight = weight * shrink + tl.sum(chance, axis=1)
        total = total * shrink[:, None]
        total = tl.dot(chance.to(value.dtype), value, total, input_precision="ieee")
        best = higher
    return total, weight, best


@triton.jit
def _decode_split(
    q, q_stride, cache, positions, tables, table_stride, partial, sums, arrived, out, block_size, head_dim,
    scale, GROUP: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    wait_for_previous(EARLY)
    sequence, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    length = tl.load(positions + sequence).to(tl.int32) + 1
    if split * _SPLIT < length:
        num_kv_heads = tl.num_programs(1)
        row, column = tl.arange(0, ROWS), tl.arange(0, DIM)
        head = kv_head * GROUP + row
        within = (row < GROUP)[:, None] & (column < head_dim)[None, :]
        place = q + sequence * q_stride + head[:, None] * head_dim + column[None, :]
        query = tl.load(place, mask=within, other=0.0)
        own = tl.full((1,), length - 1, tl.int32)
        begin, end = split * _SPLIT, min(length, split * _SPLIT + _SPLIT)
        keys, table = cache + kv_head * head_dim, tables + sequence * table_stride
        total, weight, best = _attend(
            query, own, keys, table, begin, end, length, block_size, num_kv_heads, head_dim, scale
        )
        place = sequence * num_kv_heads * GROUP + head
        filled = tl.cdiv(length, _SPLIT)
        finishes = filled == 1
        if filled > 1:
            entry = place * tl.num_programs(2) + split
            tl.store(partial + entry[:, None] * head_dim + column[None, :], total, mask=within)
            tl.store(sums + entry * 2, best, mask=row < GROUP)
            tl.store(sums + entry * 2 + 1, weight, mask=row < GROUP)
            finishes = is_last(arrived + sequence * num_kv_heads + kv_head, filled)
            if finishes:
                total, weight = _joined(
                    partial, sums, place * tl.num_programs(2), filled, row < GROUP, column, head_dim
                )
        if finishes:
            result = (total / weight[:, None]).to(out.dtype.element_ty)
            tl.store(out + place[:, None] * head_dim + column[None, :], result, mask=within)


@triton.jit
def _joined(partial, sums, entry, filled, asked, column, head_dim):
    """All splits of some heads in their order: sums of values and of weights."""
    within = asked[:, None] & (column < head_dim)[None, :]
    there = partial + entry[:, None] * head_dim + column[None, :]
    best = tl.load(sums + entry * 2, mask=asked, other=0.0, cache_modifier=".cg")
    weight = tl.load(sums + entry * 2 + 1, mask=asked, other=1.0, cache_modifier=".cg")
    total = tl.load(there, mask=within, other=0.0, cache_modifier=".cg")
    for split in range(1, filled):
        more = sums + (entry + split) * 2
        other = tl.load(more, mask=asked, other=0.0, cache_modifier=".cg")
        higher = tl.maximum(best, other)
        shrink, grow = tl.exp2(best - higher), tl.exp2(other - higher)
        weight = weight * shrink + tl.load(more + 1, mask=asked, other=0.0, cache_modifier=".cg") * grow
        added = tl.load(there + split * head_dim, mask=within, other=0.0, cache_modifier=".cg")
        total = total * shrink[:, None] + added * grow[:, None]
        best = higher
    return total, weight


@triton.jit(do_not_specialize=["table_stride"])
def _prefill_tile(
    q, q_stride, cache, starts, contexts, tables, table_stride, out, block_size, num_kv_heads, head_dim,
    scale, DIM: tl.constexpr,
):  # fmt: skip
    sequence, head, num_heads = tl.program_id(2).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    begin = tl.load(starts + sequence)
    num_queries = tl.load(starts + sequence + 1) - begin
    first = tl.program_id(0) * _QUERY_TILE
    if first < num_queries:
        context = tl.load(contexts + sequence)
        kv_head = head // (num_heads // num_kv_heads)
        row, column = first + tl.arange(0, _QUERY_TILE), tl.arange(0, DIM)
        own = context - num_queries + row
        within = (row < num_queries)[:, None] & (column < head_dim)[None, :]
        token = (begin + row).to(tl.int64)
        place = q + token[:, None] * q_stride + head * head_dim + column[None, :]
        query = tl.load(place, mask=within, other=0.0)
        end = min(context, context - num_queries + first + _QUERY_TILE)
        keys, table = cache + kv_head * head_dim, tables + sequence * table_stride
        total, weight, _ = _attend(
            query, own, keys, table, 0, end, context, block_size, num_kv_heads, head_dim, scale
        )
        result = (total / weight[:, None]).to(out.dtype.element_ty)
        there = out + (token * num_heads + head)[:, None] * head_dim + column[None, :]
        tl.store(there, result, mask=within)

"""Attention with PyTorch's own kernels: the reference for all others, and the CPU's."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.layers.context import Batch, DecodeBatch, PrefillSpan

# MKL sums over the keys in one order, however many masked ones follow, for up to this many queries.
_MOST_DECODE_QUERIES = 3
# Queries are taken in tiles of this many positions that start at its multiples, so that the shape in which a
# position is computed is given by the position, not by the length of the prompt or of its cached prefix.
_PREFILL_TILE = 64


class SdpaBackend:
    """`torch.nn.functional.scaled_dot_product_attention` over gathered blocks; runs anywhere.

    What a position sees decides its result to the last bit, not what is computed beside it: a seed must say
    the same alone, in any batch and behind a cached prefix. The order in which a CPU kernel sums depends on
    the shapes it is called with, so the shapes here are ones that leave it alone (see the constants).
    """

    gathers = True
    plans = True

    def __init__(self) -> None:
        self._planned: tuple[DecodeBatch, tuple[Tensor, Tensor]] | None = None

    def __call__(self, q: Tensor, cache: Tensor, batch: Batch) -> Tensor:
        """See `AttentionBackend`."""
        if isinstance(batch, DecodeBatch):
            return self._decode(q, cache, batch)
        attended = [
            self._prefill(q[span.start : span.end], cache, span, table)
            for span, table in zip(batch.spans, batch.block_tables, strict=False)
        ]
        # Rows behind the last span pad the batch; whatever is finite does for them.
        padding = torch.zeros_like(q[batch.spans[-1].end :]).flatten(1)
        return torch.cat((*attended, padding))

    def _decode(self, q: Tensor, cache: Tensor, batch: DecodeBatch) -> Tensor:
        blocks, mask = self._plan(batch, cache.shape[1])
        gathered = cache.index_select(0, blocks).view(len(q), -1, *cache.shape[2:]).to(q.dtype)
        k, v = gathered.transpose(1, 2).chunk(2, dim=1)
        # The heads of one group share their keys: as extra query positions they need no repeated keys.
        grouped = q.view(len(q), k.shape[1], -1, q.shape[-1])
        if grouped.shape[2] <= _MOST_DECODE_QUERIES:
            return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).reshape(len(q), -1)
        attended = [
            F.scaled_dot_product_attention(part, k, v, attn_mask=mask)
            for part in torch.split(grouped, _MOST_DECODE_QUERIES, dim=2)
        ]
        return torch.cat(attended, dim=2).view(len(q), -1)

    def _plan(self, batch: DecodeBatch, block_size: int) -> tuple[Tensor, Tensor]:
        """The blocks to gather, and which of their positions each sequence sees; made once for all layers."""
        if self._planned is None or self._planned[0] is not batch:
            length = batch.block_tables.shape[1] * block_size
            mask = torch.arange(length, device=batch.positions.device) <= batch.positions[:, None]
            self._planned = batch, (batch.block_tables.flatten(), mask[:, None, None, :])
        return self._planned[1]

    def _prefill(self, q: Tensor, cache: Tensor, span: PrefillSpan, table: Tensor) -> Tensor:
        first, end = span.context - len(q), -(-span.context // _PREFILL_TILE) * _PREFILL_TILE
        start = first - first % _PREFILL_TILE
        blocks = table[: -(-span.context // cache.shape[1])]
        context = cache.index_select(0, blocks).flatten(0, 1)[: span.context].to(q.dtype)
        context = F.pad(context, (0, 0, 0, 0, 0, end - span.context))
        k, v = context.transpose(0, 1).chunk(2, dim=0)
        queries = F.pad(q, (0, 0, 0, 0, first - start, end - span.context)).transpose(0, 1)
        attended = [
            self._tile(queries[:, tile - start : tile - start + _PREFILL_TILE], k, v, tile)
            for tile in range(start, end, _PREFILL_TILE)
        ]
        return torch.cat(attended)[first - start :][: len(q)]

    @staticmethod
    def _tile(q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
        """The positions from `start` on, [num_heads, tile, head_dim] to [tile, num_heads * head_dim]."""
        end = start + q.shape[1]
        mask = torch.ones(q.shape[1], end, dtype=torch.bool, device=q.device).tril(start)
        attended = F.scaled_dot_product_attention(
            q[None], k[None, :, :end], v[None, :, :end], attn_mask=mask, enable_gqa=True
        )
        return attended[0].transpose(0, 1).flatten(1)

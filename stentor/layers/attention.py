"""Attention over the paged cache: one signature for every backend, with PyTorch's own kernels as the reference."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.errors import ConfigError
from stentor.layers.context import Batch, DecodeBatch, PrefillBatch


class AttentionBackend(Protocol):
    """Writes new keys and values into one layer's blocks and attends over all of each sequence's."""

    def __call__(self, q: Tensor, kv: Tensor, cache: Tensor, batch: Batch) -> Tensor:
        """Causal grouped-query attention.

        Args:
            q: [num_tokens, num_heads, head_dim], after norm and rotation.
            kv: [num_tokens, 2 * num_kv_heads, head_dim], keys first, then values.
            cache: one layer, [num_blocks, block_size, 2 * num_kv_heads, head_dim].
            batch: whose positions these are.

        Returns:
            [num_tokens, num_heads * head_dim].
        """


class SdpaBackend:
    """`torch.nn.functional.scaled_dot_product_attention` over gathered blocks; runs anywhere."""

    def __call__(self, q: Tensor, kv: Tensor, cache: Tensor, batch: Batch) -> Tensor:
        cache.view(-1, *cache.shape[2:]).index_copy_(0, batch.slots, kv)
        if isinstance(batch, DecodeBatch):
            return self._decode(q, cache, batch)
        return self._prefill(q, cache, batch)

    def _decode(self, q: Tensor, cache: Tensor, batch: DecodeBatch) -> Tensor:
        batch_size, num_blocks = batch.block_tables.shape
        length = num_blocks * cache.shape[1]
        num_kv_heads = cache.shape[2] // 2
        gathered = cache.index_select(0, batch.block_tables.flatten()).view(batch_size, length, *cache.shape[2:])
        k, v = gathered.transpose(1, 2).split(num_kv_heads, dim=1)
        # The heads of one group share their keys: as extra query positions they need no repeated keys.
        grouped = q.view(batch_size, num_kv_heads, -1, q.shape[-1])
        mask = torch.arange(length, device=q.device) <= batch.positions[:, None]
        out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask[:, None, None, :])
        return out.reshape(batch_size, -1)

    def _prefill(self, q: Tensor, cache: Tensor, batch: PrefillBatch) -> Tensor:
        num_kv_heads = cache.shape[2] // 2
        out = torch.empty_like(q)
        for span in batch.spans:
            context = cache.index_select(0, span.blocks).flatten(0, 1)[: span.context]
            k, v = context.transpose(0, 1).split(num_kv_heads, dim=0)
            positions = batch.positions[span.start : span.end]
            mask = torch.arange(span.context, device=q.device) <= positions[:, None]
            query = q[span.start : span.end].transpose(0, 1)
            attended = F.scaled_dot_product_attention(
                query[None], k[None], v[None], attn_mask=mask[None, None], enable_gqa=True
            )
            out[span.start : span.end] = attended[0].transpose(0, 1)
        return out.flatten(1)


BACKENDS: dict[str, type[AttentionBackend]] = {"sdpa": SdpaBackend}


def choose_backend(name: str) -> AttentionBackend:
    """The backend of that name; 'auto' takes the best that works here.

    Raises:
        ConfigError: there is none of that name.
    """
    if name == "auto":
        name = "sdpa"
    if name not in BACKENDS:
        raise ConfigError(f"unknown attention backend {name!r}; choose one of: auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]()

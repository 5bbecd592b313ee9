"""FlashAttention 3 (Hopper): the paged forward of `flash_attn_interface`, decode and prefill alike.

Written after the interface of Dao-AILab/flash-attention, folder `hopper`; not yet run on a card.
"""

from collections.abc import Callable

from torch import Tensor

from stentor.layers.attention.libraries.tables import TablesOf, clear_padding
from stentor.layers.context import Batch, DecodeBatch


class Fa3Backend:
    """Implements `AttentionBackend`. Its splits follow the batch: a row may feel its company."""

    gathers = False
    plans = False

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        """`attend` is `flash_attn_with_kvcache`."""
        self._attend = attend
        self._tables_of = TablesOf()

    def __call__(self, q: Tensor, cache: Tensor, batch: Batch) -> Tensor:
        """See `AttentionBackend`."""
        keys, values = cache.chunk(2, dim=2)
        tables = self._tables_of(batch)
        known = {"cache_seqlens": tables.lengths, "page_table": tables.blocks, "causal": True}
        if isinstance(batch, DecodeBatch):
            return self._attend(q[:, None], keys, values, **known).reshape(len(q), -1)
        rows = {"cu_seqlens_q": batch.starts, "max_seqlen_q": batch.longest}
        out = self._attend(q, keys, values, **known, **rows)
        return clear_padding(out.reshape(len(q), -1), batch.starts)

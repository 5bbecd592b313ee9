"""SageAttention for the prefill of whole prompts (its scores in int8), another backend for all else.

Written after the interface of thu-ml/SageAttention; not yet run on a card.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from stentor.layers.attention.libraries.tables import clear_padding
from stentor.layers.context import Batch, PrefillBatch, PrefillSpan


class SageBackend:
    """Implements `AttentionBackend`: prompts without a cached prefix, one after the other, with `sageattn`.

    Its causal mask needs as many queries as keys, so prompts behind a prefix go to `rest`, as decode does.
    Quantised scores: a position feels how its prompt goes on.
    """

    gathers = False
    plans = True

    def __init__(
        self, attend: Callable[..., Tensor], rest: Callable[[Tensor, Tensor, Batch], Tensor]
    ) -> None:
        """`attend` is `sageattn`."""
        self._rest = rest
        self._attend = attend

    def __call__(self, q: Tensor, cache: Tensor, batch: Batch) -> Tensor:
        """See `AttentionBackend`."""
        if not isinstance(batch, PrefillBatch) or not batch.spans:
            return self._rest(q, cache, batch)
        if any(span.end - span.start != span.context for span in batch.spans):
            return self._rest(q, cache, batch)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        for span, table in zip(batch.spans, batch.block_tables, strict=False):
            out[span.start : span.end] = self._prompt(q[span.start : span.end], cache, span, table)
        return clear_padding(out.view(len(q), -1), batch.starts)

    def _prompt(self, q: Tensor, cache: Tensor, span: PrefillSpan, table: Tensor) -> Tensor:
        blocks = table[: -(-span.context // cache.shape[1])]
        context = cache.index_select(0, blocks).flatten(0, 1)[: span.context].to(q.dtype)
        keys, values = context.chunk(2, dim=1)
        return self._attend(q[None], keys[None], values[None], tensor_layout="NHD", is_causal=True)[0]

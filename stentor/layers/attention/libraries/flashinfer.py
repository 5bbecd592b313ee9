"""FlashInfer: XQA for decode, which plans nothing and can be captured; a paged prefill planned per batch.

Written after flashinfer-python 0.7 (`flashinfer.decode`, `flashinfer.prefill`); not yet run on a card.
"""

from typing import Any

import torch
from torch import Tensor

from stentor.layers.attention.libraries.tables import TablesOf, clear_padding
from stentor.layers.context import Batch, DecodeBatch, PrefillBatch

# What its documentation asks for; XQA counts on zeros at the first use.
_WORKSPACE_BYTES = 128 * 2**20


class FlashInferBackend:
    """Implements `AttentionBackend`. Its splits follow the batch: a row may feel its company.

    A prefill is planned on the host from the batch's spans, so it cannot be captured; a decode step can.
    """

    gathers = False
    plans = True

    def __init__(self, library: Any) -> None:
        """`library` is the module `flashinfer`."""
        self._library = library
        self._tables_of = TablesOf()
        self._workspaces: dict[str, Tensor] = {}
        self._prefill: Any = None
        self._planned: PrefillBatch | None = None

    def __call__(self, q: Tensor, cache: Tensor, batch: Batch) -> Tensor:
        """See `AttentionBackend`."""
        keys_values = cache.chunk(2, dim=2)
        if isinstance(batch, DecodeBatch):
            return self._decode(q, keys_values, batch)
        if self._planned is not batch:
            self._plan(q, keys_values[0], batch)
        rows = batch.spans[-1].end
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        self._prefill.run(q[:rows], keys_values, out=out[:rows])
        return clear_padding(out.view(len(q), -1), batch.starts)

    def _decode(self, q: Tensor, keys_values: tuple[Tensor, ...], batch: DecodeBatch) -> Tensor:
        tables = self._tables_of(batch)
        out: Tensor = self._library.decode.trtllm_batch_decode_with_kv_cache(
            query=q.contiguous(),
            kv_cache=keys_values,
            workspace_buffer=self._workspace("decode", q.device),
            block_tables=tables.blocks,
            seq_lens=tables.lengths.view(torch.uint32),
            max_seq_len=tables.blocks.shape[1] * keys_values[0].shape[1],
            bmm1_scale=q.shape[-1] ** -0.5,
            bmm2_scale=1.0,
            kv_layout="NHD",
            backend="xqa",
        )
        return out.reshape(len(q), -1)

    def _plan(self, q: Tensor, keys: Tensor, batch: PrefillBatch) -> None:
        if self._prefill is None:
            workspace = self._workspace("prefill", q.device)
            self._prefill = self._library.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
        block_size = keys.shape[1]
        counts = [-(-span.context // block_size) for span in batch.spans]
        starts = torch.tensor([0, *(span.end for span in batch.spans)], dtype=torch.int32)
        ends = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        last = [(span.context - 1) % block_size + 1 for span in batch.spans]
        used = [table[:count] for table, count in zip(batch.block_tables, counts, strict=False)]
        self._prefill.plan(
            starts,
            ends,
            torch.cat(used).int(),
            torch.tensor(last, dtype=torch.int32),
            q.shape[1],
            keys.shape[2],
            q.shape[2],
            block_size,
            causal=True,
            q_data_type=q.dtype,
            kv_data_type=keys.dtype,
        )
        self._planned = batch

    def _workspace(self, use: str, device: torch.device) -> Tensor:
        if use not in self._workspaces:
            self._workspaces[use] = torch.zeros(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        return self._workspaces[use]

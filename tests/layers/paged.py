"""Some sequences' keys and values in blocks, to be attended by any backend, and the plain formula."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.layers.attention import AttentionBackend, SdpaBackend
from stentor.layers.context import Batch, DecodeBatch, PrefillBatch, PrefillSpan

BLOCK = 16


class Paged:
    """Some sequences' keys and values in blocks that lie about in no order."""

    def __init__(
        self,
        lengths: list[int],
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        backend: AttentionBackend | None = None,
        cache_dtype: torch.dtype | None = None,
        device: str = "cpu",
    ) -> None:
        """`shape` is (heads, kv_heads, head_dim)."""
        heads, kv_heads, head_dim = shape
        self.backend = backend or SdpaBackend()
        generator = torch.Generator().manual_seed(sum(lengths) + heads)
        self.q = [torch.randn(n, heads, head_dim, generator=generator).to(device, dtype) for n in lengths]
        self.kv = [
            torch.randn(n, 2 * kv_heads, head_dim, generator=generator)
            .to(cache_dtype or dtype)
            .to(device, dtype)
            for n in lengths
        ]
        num_blocks = [-(-n // BLOCK) for n in lengths]
        order = torch.randperm(sum(num_blocks), generator=generator) + 1
        self.blocks = list(torch.split(order.to(device), num_blocks))
        # What is masked may hold anything finite.
        size = (len(order) + 1, BLOCK, 2 * kv_heads, head_dim)
        self.cache = torch.full(size, 400.0, dtype=cache_dtype or dtype, device=device)

    def slots(self, i: int, start: int, end: int) -> Tensor:
        position = torch.arange(start, end, device=self.cache.device)
        return self.blocks[i][position // BLOCK] * BLOCK + position % BLOCK

    def attend(self, rows: list[tuple[int, int, int]], batch: Batch, padding: int = 0) -> Tensor:
        q = torch.cat([self.q[i][start:end] for i, start, end in rows])
        kv = torch.cat([self.kv[i][start:end] for i, start, end in rows])
        q, kv = (F.pad(tensor, (0, 0, 0, 0, 0, padding)) for tensor in (q, kv))
        self.cache.view(-1, *self.cache.shape[2:])[batch.slots] = kv.to(self.cache.dtype)
        return self.backend(q, self.cache, batch)

    def prefill(self, *rows: tuple[int, int, int], padding: int = 0) -> list[Tensor]:
        """The positions [start, end) of each sequence i, whose earlier ones are in the cache.

        Rows of `padding` stand behind them at position 0 of block 0, and must come out finite.
        """
        spans, first = [], 0
        for _, start, end in rows:
            spans.append(PrefillSpan(first, first + end - start, end))
            first += end - start
        positions = F.pad(torch.cat([torch.arange(start, end) for _, start, end in rows]), (0, padding))
        slots = F.pad(torch.cat([self.slots(*row) for row in rows]), (0, padding))
        tables = torch.nn.utils.rnn.pad_sequence([self.blocks[i] for i, _, _ in rows], batch_first=True)
        starts = torch.tensor([0, *(span.end for span in spans)], dtype=torch.int32, device=slots.device)
        contexts = torch.tensor([end for _, _, end in rows], dtype=torch.int32, device=slots.device)
        batch = PrefillBatch(
            positions.to(slots.device), slots, tables, starts, contexts, tuple(spans), positions
        )
        out = self.attend(list(rows), batch, padding)
        assert out.isfinite().all()
        return list(out[: spans[-1].end].split([end - start for _, start, end in rows]))

    def decode(self, sequences: list[int], num_blocks: int) -> Tensor:
        """The last position of each of the sequences, whose earlier ones are in the cache."""
        rows = [(i, len(self.q[i]) - 1, len(self.q[i])) for i in sequences]
        tables = torch.zeros(len(rows), num_blocks, dtype=torch.int64, device=self.cache.device)
        for row, i in enumerate(sequences):
            tables[row, : len(self.blocks[i])] = self.blocks[i]
        slots = torch.cat([self.slots(*row) for row in rows])
        positions = torch.tensor([start for _, start, _ in rows], device=slots.device)
        return self.attend(rows, DecodeBatch(positions, slots, tables))

    def plain(self, i: int) -> Tensor:
        """The formula, in float64, for every position of sequence i."""
        q, (k, v) = self.q[i].double(), self.kv[i].double().chunk(2, dim=1)
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[2] ** 0.5
        scores = scores.masked_fill(torch.ones(len(q), len(q), device=q.device).triu(1).bool(), -torch.inf)
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)

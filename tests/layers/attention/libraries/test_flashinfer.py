"""The adapter hands FlashInfer what its interface asks for: a stand-in that follows it, agrees."""

from typing import Any

import torch
from torch import Tensor

from stentor.layers.attention.libraries.flashinfer import FlashInferBackend
from stentor.layers.context import Batch
from tests.layers.attention.libraries.test_fa3 import attend
from tests.layers.paged import BLOCK, Paged

SHAPE = (4, 2, 16)


class Decode:
    """`flashinfer.decode`."""

    @staticmethod
    def trtllm_batch_decode_with_kv_cache(**given: Any) -> Tensor:
        """Takes what the library's own function takes, by name."""
        assert (given["kv_layout"], given["backend"], given["bmm2_scale"]) == ("NHD", "xqa", 1.0)
        query, lengths = given["query"], given["seq_lens"]
        assert query.is_contiguous()
        assert lengths.dtype == torch.uint32
        assert not given["workspace_buffer"].any()
        lengths = lengths.view(torch.int32)
        assert int(lengths.max()) <= given["max_seq_len"]
        query = query * (given["bmm1_scale"] * query.shape[-1] ** 0.5)
        known = {"cache_seqlens": lengths, "page_table": given["block_tables"], "causal": True}
        return attend(query[:, None], *given["kv_cache"], **known)[:, 0]


class Wrapper:
    """`flashinfer.BatchPrefillWithPagedKVCacheWrapper`."""

    def __init__(self, workspace: Tensor, kv_layout: str) -> None:
        assert kv_layout == "NHD"
        self.plans = 0

    def plan(
        self, qo_indptr: Tensor, indptr: Tensor, indices: Tensor, last: Tensor, *sizes: int, **known: Any
    ) -> None:
        assert {t.dtype for t in (qo_indptr, indptr, indices, last)} == {torch.int32}
        assert sizes == (*SHAPE, BLOCK)
        assert known == {"causal": True, "q_data_type": torch.float32, "kv_data_type": torch.float32}
        self.plans += 1
        self._starts = qo_indptr
        pages = [indices[a:b] for a, b in zip(indptr[:-1].tolist(), indptr[1:].tolist(), strict=True)]
        self._table = torch.nn.utils.rnn.pad_sequence(pages, batch_first=True)
        self._lengths = (indptr.diff() - 1) * BLOCK + last

    def run(self, q: Tensor, kv_cache: tuple[Tensor, Tensor], out: Tensor) -> Tensor:
        assert len(q) == int(self._starts[-1])
        longest = int(self._starts.diff().max())
        known = {"cache_seqlens": self._lengths, "page_table": self._table, "causal": True}
        return out.copy_(attend(q, *kv_cache, **known, cu_seqlens_q=self._starts, max_seqlen_q=longest))


class Library:
    """`flashinfer`."""

    decode = Decode
    BatchPrefillWithPagedKVCacheWrapper = Wrapper


def test_prefill_and_decode_equal_the_plain_formula() -> None:
    paged = Paged([33, 1, 70], SHAPE, torch.float32, FlashInferBackend(Library))
    for i, out in zip((0, 2), paged.prefill((0, 0, 32), (2, 0, 69), padding=7), strict=True):
        torch.testing.assert_close(out.double(), paged.plain(i)[:-1], rtol=1e-5, atol=1e-5)
    out = paged.decode([0, 1, 2], num_blocks=6)
    for i in range(3):
        torch.testing.assert_close(out[i].double(), paged.plain(i)[-1], rtol=1e-5, atol=1e-5)


def test_a_prefill_is_planned_once_for_all_layers() -> None:
    backend = FlashInferBackend(Library)

    def three_layers(q: Tensor, cache: Tensor, batch: Batch) -> Tensor:
        return torch.stack([backend(q, cache, batch) for _ in range(3)])[2]

    paged = Paged([33], SHAPE, torch.float32, three_layers)
    paged.prefill((0, 0, 20))
    assert backend._prefill.plans == 1
    paged.prefill((0, 20, 33))
    assert backend._prefill.plans == 2

"""The adapter hands FlashAttention 3 what its interface asks for: a stand-in that follows it, agrees."""

import torch
from torch import Tensor

from stentor.layers.attention.libraries.fa3 import Fa3Backend
from tests.layers.paged import Paged

SHAPE = (4, 2, 16)


def attend(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    cache_seqlens: Tensor,
    page_table: Tensor,
    causal: bool,
    cu_seqlens_q: Tensor | None = None,
    max_seqlen_q: int | None = None,
) -> Tensor:
    """`flash_attn_with_kvcache` as it is documented: paged, causal to the lower right; garbage elsewhere."""
    assert causal
    assert {cache_seqlens.dtype, page_table.dtype} == {torch.int32}
    if cu_seqlens_q is None:
        ends = torch.arange(len(q) + 1) * q.shape[1]
        flat = q.flatten(0, 1)
    else:
        assert cu_seqlens_q.dtype == torch.int32
        assert max_seqlen_q == int(cu_seqlens_q.diff().max())
        ends, flat = cu_seqlens_q.long(), q
    out = torch.full_like(flat, torch.nan, memory_format=torch.contiguous_format)
    for i, length in enumerate(cache_seqlens.tolist()):
        rows = slice(int(ends[i]), int(ends[i + 1]))
        k, v = (cache[page_table[i].long()].flatten(0, 1)[:length] for cache in (k_cache, v_cache))
        queries = flat[rows].transpose(0, 1)
        mask = torch.ones(queries.shape[1], length).tril(length - queries.shape[1]).bool()
        keys, values = k.transpose(0, 1), v.transpose(0, 1)
        done = torch.nn.functional.scaled_dot_product_attention(
            queries[None], keys[None], values[None], attn_mask=mask, enable_gqa=True
        )
        out[rows] = done[0].transpose(0, 1)
    return out.view(q.shape)


def test_prefill_and_decode_equal_the_plain_formula() -> None:
    paged = Paged([33, 1, 70], SHAPE, torch.float32, Fa3Backend(attend))
    for i, out in zip((0, 2), paged.prefill((0, 0, 32), (2, 0, 69), padding=7), strict=True):
        torch.testing.assert_close(out.double(), paged.plain(i)[:-1], rtol=1e-5, atol=1e-5)
    out = paged.decode([0, 1, 2], num_blocks=6)
    for i in range(3):
        torch.testing.assert_close(out[i].double(), paged.plain(i)[-1], rtol=1e-5, atol=1e-5)

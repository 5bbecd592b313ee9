"""Norm and rotation of queries and keys, and keys and values into the cache: one program a head."""

import triton
import triton.language as tl
from torch import Tensor

from stentor.layers.context import Place
from stentor.layers.rotary import Turn


def place_heads(qkv: Tensor, norm: Tensor, eps: float, turn: Turn, place: Place) -> Tensor:
    """See `Kernels.place_heads`."""
    num_tokens, all_heads, head_dim = qkv.shape
    cos, sin = turn
    _place_heads[(num_tokens, all_heads)](
        qkv,
        norm,
        cos,
        sin,
        place.cache,
        place.slots,
        len(norm),
        head_dim,
        eps,
        BLOCK=triton.next_power_of_2(head_dim // 2),
        num_warps=1,
    )
    return qkv[:, : 2 * len(norm) - all_heads]


@triton.jit
def _place_heads(qkv, norm, cos, sin, cache, slots, num_normed, head_dim, eps, BLOCK: tl.constexpr):
    token, head, all_heads = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    num_heads = 2 * num_normed - all_heads
    half = head_dim // 2
    column = tl.arange(0, BLOCK)
    inside = column < half
    here = qkv + (token * all_heads + head) * head_dim + column
    first = tl.load(here, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(here + half, mask=inside, other=0.0).to(tl.float32)
    if head < num_normed:
        mean = (tl.sum(first * first, axis=0) + tl.sum(second * second, axis=0)) / head_dim
        scale = tl.rsqrt(mean + eps)
        weight = norm + head * head_dim + column
        first *= scale * tl.load(weight, mask=inside, other=0.0).to(tl.float32)
        second *= scale * tl.load(weight + half, mask=inside, other=0.0).to(tl.float32)
        angle = token * head_dim + half + column
        across = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
        along = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
        turned = first * along - second * across
        second = second * along + first * across
        first = turned
    if head < num_heads:
        tl.store(here, first.to(qkv.dtype.element_ty), mask=inside)
        tl.store(here + half, second.to(qkv.dtype.element_ty), mask=inside)
    else:
        slot = tl.load(slots + token)
        there = cache + (slot * (all_heads - num_heads) + head - num_heads) * head_dim + column
        tl.store(there, first.to(cache.dtype.element_ty), mask=inside)
        tl.store(there + half, second.to(cache.dtype.element_ty), mask=inside)

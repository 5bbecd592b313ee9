"""Norm and rotation of queries and keys, and keys and values into the cache: some heads a program."""

import triton
import triton.language as tl
from torch import Tensor

from stentor.layers.context import Place
from stentor.layers.linear import Norm
from stentor.layers.rotary import Turn
from stentor.layers.triton.launches import early, wait_for_previous

# Heads of a program.
_HEADS = 8


def place_heads(qkv: Tensor, norm: Norm | None, turn: Turn, place: Place) -> Tensor:
    """See `Kernels.place_heads`."""
    num_tokens, all_heads, head_dim = qkv.shape
    (cos, sin), (weight, eps) = turn, norm or (qkv, 0.0)
    num_heads = all_heads - place.cache.shape[-2]
    _place_heads[(num_tokens, triton.cdiv(all_heads, _HEADS))](
        qkv, weight, cos, sin, place.cache, place.slots, all_heads, num_heads, head_dim, eps,
        NORM=norm is not None, HEADS=_HEADS, BLOCK=triton.next_power_of_2(head_dim // 2), num_warps=2,
        **early(qkv.device),
    )  # fmt: skip
    return qkv[:, :num_heads]


@triton.jit
def _place_heads(
    qkv, norm, cos, sin, cache, slots, all_heads, num_heads, head_dim, eps, NORM: tl.constexpr,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    wait_for_previous(EARLY)
    token = tl.program_id(0).to(tl.int64)
    head, column = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None], tl.arange(0, BLOCK)[None, :]
    half = head_dim // 2
    inside = (head < all_heads) & (column < half)
    here = qkv + (token * all_heads + head) * head_dim + column
    first = tl.load(here, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(here + half, mask=inside, other=0.0).to(tl.float32)
    turned = inside & (head < (all_heads + num_heads) // 2)
    turned_first, turned_second = first, second
    if NORM:
        mean = (tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)) / head_dim
        scale, weight = tl.rsqrt(mean + eps)[:, None], norm + head * head_dim + column
        turned_first = first * scale * tl.load(weight, mask=turned, other=0.0).to(tl.float32)
        turned_second = second * scale * tl.load(weight + half, mask=turned, other=0.0).to(tl.float32)
    angle = token * head_dim + half + column
    across = tl.load(sin + angle, mask=column < half, other=0.0).to(tl.float32)
    along = tl.load(cos + angle, mask=column < half, other=0.0).to(tl.float32)
    # Values are left as they are.
    first = tl.where(turned, turned_first * along - turned_second * across, first)
    second = tl.where(turned, turned_second * along + turned_first * across, second)
    asks = inside & (head < num_heads)
    tl.store(here, first.to(qkv.dtype.element_ty), mask=asks)
    tl.store(here + half, second.to(qkv.dtype.element_ty), mask=asks)
    kept = inside & (head >= num_heads)
    there = cache + (tl.load(slots + token) * (all_heads - num_heads) + head - num_heads) * head_dim + column
    tl.store(there, first.to(cache.dtype.element_ty), mask=kept)
    tl.store(there + half, second.to(cache.dtype.element_ty), mask=kept)

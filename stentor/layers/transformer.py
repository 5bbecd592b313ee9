"""The pre-norm decoder block of language models, its projections fused into as few kernels as possible."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stentor.layers.attention import AttentionBackend
from stentor.layers.context import Batch, Place
from stentor.layers.kernels import Kernels
from stentor.layers.linear import Added, Norm, Product
from stentor.layers.rotary import RotaryTable


@dataclass(frozen=True)
class BlockWeights:
    """One block's parameters; q, k and v stand above each other in `qkv`, gate above up in `gated`, and both
    are products of their input's RMSNorm.

    The weight of `qk_norm`, [num_heads + num_kv_heads, head_dim], repeats the query norm for each head, then
    the key norm; some families have none.
    """

    qkv: Product
    qk_norm: Norm | None
    output: Added
    gated: Product
    down: Added


class DecoderBlock:
    """Attention and SwiGLU, each behind an RMSNorm and inside a residual (arXiv:2505.09388)."""

    def __init__(self, weights: BlockWeights) -> None:
        self._weights = weights

    def __call__(self, x: Tensor, attend: Callable[[Tensor, Norm | None, int], Tensor], layer: int) -> Tensor:
        """One block over `x` [num_tokens, hidden_size]; keys and values go to `layer` of the cache."""
        weights = self._weights
        x = weights.output(attend(weights.qkv(x), weights.qk_norm, layer), x)
        return weights.down(weights.gated(x), x)


class Attend:
    """Attention as a block sees it in one forward pass: the batch, the cache and the rotation are bound.

    `cache` is [num_layers, num_blocks, block_size, 2 * num_kv_heads, head_dim].
    """

    def __init__(
        self, backend: AttentionBackend, kernels: Kernels, cache: Tensor, rotary: RotaryTable, batch: Batch
    ) -> None:
        self._backend = backend
        self._kernels = kernels
        self._cache = cache
        self._batch = batch
        self._turn = rotary.at(batch.positions)

    def __call__(self, qkv: Tensor, norm: Norm | None, layer: int) -> Tensor:
        """Attention of queries, keys and values, [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim]."""
        cache, batch = self._cache[layer], self._batch
        qkv = qkv.view(len(qkv), -1, cache.shape[-1])
        queries = self._kernels.place_heads(qkv, norm, self._turn, Place(cache, batch.slots))
        return self._backend(queries, cache, batch)


def fuse(*parts: Tensor) -> Tensor:
    """Stack the weights of linear layers that share an input, so that one product computes them all."""
    return torch.cat(parts, dim=0).contiguous()

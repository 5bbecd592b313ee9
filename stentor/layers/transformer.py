"""The pre-norm decoder block of the Qwen3 family, its projections fused into as few kernels as possible."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stentor.layers.attention import AttentionBackend
from stentor.layers.context import Batch, Place
from stentor.layers.kernels import Kernels
from stentor.layers.linear import Product
from stentor.layers.rotary import RotaryTable


@dataclass(frozen=True)
class BlockWeights:
    """One block's parameters; q, k and v stand above each other in `qkv`, gate above up in `gated`.

    `qk_norm` [num_heads + num_kv_heads, head_dim] repeats the query norm for each head, then the key norm.
    `next_norm` is the norm of what follows: the next block, or the head.
    """

    qkv: Product
    qk_norm: Tensor
    output: Product
    post_norm: Tensor
    gated: Product
    down: Product
    next_norm: Tensor


class DecoderBlock:
    """Attention and SwiGLU, each behind an RMSNorm and inside a residual (Qwen3, arXiv:2505.09388)."""

    def __init__(self, weights: BlockWeights, norm_eps: float, kernels: Kernels) -> None:
        self._weights = weights
        self._eps = norm_eps
        self._kernels = kernels

    def __call__(self, x: Tensor, normed: Tensor, attend: "Attend", layer: int) -> tuple[Tensor, Tensor]:
        """One block over `x` [num_tokens, hidden_size], given with its norm; gives both for the next block.

        Each residual is added together with the norm that follows it. Keys and values go to `layer` of the
        cache.
        """
        weights, kernels, eps = self._weights, self._kernels, self._eps
        qkv = weights.qkv(normed).view(len(x), -1, weights.qk_norm.shape[-1])
        queries = kernels.place_heads(qkv, weights.qk_norm, eps, attend.turn, attend.place(layer))
        x, normed = kernels.add_rms_norm(x, weights.output(attend(queries, layer)), weights.post_norm, eps)
        return kernels.add_rms_norm(x, weights.down(weights.gated(normed)), weights.next_norm, eps)


class Attend:
    """Attention as a block sees it in one forward pass: the batch, the cache and the rotation are bound.

    `cache` is [num_layers, num_blocks, block_size, 2 * num_kv_heads, head_dim].
    """

    def __init__(self, backend: AttentionBackend, cache: Tensor, rotary: RotaryTable, batch: Batch) -> None:
        self._backend = backend
        self._cache = cache
        self._batch = batch
        self.turn = rotary.at(batch.positions)

    def place(self, layer: int) -> Place:
        """Where the batch's keys and values go in `layer`."""
        return Place(self._cache[layer], self._batch.slots)

    def __call__(self, q: Tensor, layer: int) -> Tensor:
        return self._backend(q, self._cache[layer], self._batch)


def fuse(*parts: Tensor) -> Tensor:
    """Stack the weights of linear layers that share an input, so that one product computes them all."""
    return torch.cat(parts, dim=0).contiguous()

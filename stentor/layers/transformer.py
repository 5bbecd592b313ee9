"""The pre-norm decoder block of the Qwen3 family, its projections fused into as few kernels as possible."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.layers.attention import AttentionBackend
from stentor.layers.context import Batch
from stentor.layers.linear import Linear
from stentor.layers.rotary import RotaryTable, rotate


@dataclass(frozen=True)
class BlockShape:
    """The geometry of one block; the width of the queries need not be the hidden size."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float


@dataclass(frozen=True)
class BlockWeights:
    """One block's parameters; q, k and v stand above each other in `qkv`, gate above up in `gate_up`.

    `qk_norm` [num_heads + num_kv_heads, head_dim] repeats the query norm for each head, then the key norm.
    """

    input_norm: Tensor
    qkv: Linear
    qk_norm: Tensor
    output: Linear
    post_norm: Tensor
    gate_up: Linear
    down: Linear


class DecoderBlock:
    """Attention and SwiGLU, each behind an RMSNorm and inside a residual (Qwen3, arXiv:2505.09388)."""

    def __init__(self, shape: BlockShape, weights: BlockWeights) -> None:
        self._shape = shape
        self._weights = weights

    def __call__(self, x: Tensor, attend: "Attend", layer: int) -> Tensor:
        """One block over `x` [num_tokens, hidden_size]; keys and values go to `layer` of the cache."""
        shape, weights = self._shape, self._weights
        normed = F.rms_norm(x, (shape.hidden_size,), weights.input_norm, shape.norm_eps)
        qkv = weights.qkv(normed).view(len(x), -1, shape.head_dim)
        x = x + weights.output(self._attention(qkv, attend, layer))
        normed = F.rms_norm(x, (shape.hidden_size,), weights.post_norm, shape.norm_eps)
        gate, up = weights.gate_up(normed).chunk(2, dim=-1)
        return x + weights.down(F.silu(gate).mul_(up))

    def _attention(self, qkv: Tensor, attend: "Attend", layer: int) -> Tensor:
        rotated_heads = self._shape.num_heads + self._shape.num_kv_heads
        qk = qkv[:, :rotated_heads]
        normed = F.rms_norm(qk, (self._shape.head_dim,), None, self._shape.norm_eps)
        normed.mul_(self._weights.qk_norm)
        # In place, so that the rotated keys stand beside the values and go to the cache in one copy.
        qk.copy_(rotate(normed, attend.cos, attend.sin))
        return attend(qkv[:, : self._shape.num_heads], qkv[:, self._shape.num_heads :], layer)


class Attend:
    """Attention as a block sees it in one forward pass: the batch, the cache and the rotation are bound.

    `cache` is [num_layers, num_blocks, block_size, 2 * num_kv_heads, head_dim].
    """

    def __init__(self, backend: AttentionBackend, cache: Tensor, rotary: RotaryTable, batch: Batch) -> None:
        self._backend = backend
        self._cache = cache
        self._batch = batch
        self.cos, self.sin = rotary.at(batch.positions)

    def __call__(self, q: Tensor, kv: Tensor, layer: int) -> Tensor:
        return self._backend(q, kv, self._cache[layer], self._batch)


def fuse(*parts: Tensor) -> Tensor:
    """Stack the weights of linear layers that share an input, so that one product computes them all."""
    return torch.cat(parts, dim=0).contiguous()

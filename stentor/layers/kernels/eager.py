"""The reference of every kernel, in PyTorch's own operations: runs anywhere, and is the CPU's."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.layers.context import Place
from stentor.layers.convolution import Convolve, Filter, convolve
from stentor.layers.linear import Added, Linear, Norm, Product
from stentor.layers.quantization import Scheme, make_product
from stentor.layers.rotary import Turn, rotate


class EagerKernels:
    """Implements `Kernels`, which says what each method is, an operation after the other."""

    def __init__(self, quantization: Scheme = "none") -> None:
        self._quantization = quantization

    def linear(self, weight: Tensor, norm: Norm | None = None) -> Product:
        return _of_norm(make_product(weight, self._quantization), norm)

    def residual(self, weight: Tensor) -> Added:
        product = make_product(weight, self._quantization)
        if isinstance(product, Linear):
            return product.added
        return lambda x, plus: plus.add_(product(x))

    def head(self, weight: Tensor, norm: Norm | None = None) -> Product:
        """Of a small model, as a CPU runs them, it is half of what a step reads."""
        return _of_norm(make_product(weight, "int8" if self._quantization == "int8" else "none"), norm)

    def gated(self, weight: Tensor, norm: Norm | None = None) -> Product:
        product = self.linear(weight, norm)
        return lambda x: silu_mul(product(x))

    def place_heads(self, qkv: Tensor, norm: Norm | None, turn: Turn, place: Place) -> Tensor:
        num_kv = place.cache.shape[-2]
        num_heads = qkv.shape[1] - num_kv
        qk, kv = qkv[:, : num_heads + num_kv // 2], qkv[:, num_heads:]
        # In place, so that the rotated keys stand beside the values and go to the cache in one copy.
        qk.copy_(rotate(rms_norm(qk, *norm) if norm else qk, *turn))
        flat = place.cache.view(-1, *place.cache.shape[2:])
        if flat.dtype != kv.dtype:
            largest = torch.finfo(flat.dtype).max
            # As bytes: not every device copies float8 by index.
            kv = kv.clamp(-largest, largest).to(flat.dtype).view(torch.uint8)
            flat = flat.view(torch.uint8)
        flat.index_copy_(0, place.slots, kv)
        return qkv[:, :num_heads]

    def embed_codes(self, rows: Tensor, offsets: Tensor, table: Tensor) -> Tensor:
        # The sum stays in the model's dtype, as in training: a float32 sum drifts away from it step by step.
        return F.embedding(rows.clamp(min=0) + offsets, table).sum(dim=1)

    def convolution(self, filter: Filter, then: Filter | None = None) -> Convolve:
        if then is None:
            return partial(convolve, filter)
        first, second = partial(convolve, filter), partial(convolve, then)
        return lambda signal: second(first(signal._replace(plain=None))._replace(plain=signal.plain))


def _of_norm(product: Product, norm: Norm | None) -> Product:
    return product if norm is None else lambda x: product(rms_norm(x, *norm))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [num_tokens, size] / sqrt(mean(x^2) + eps) * weight [size]."""
    return normalised(x, eps) * weight


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu of the first half of [num_rows, 2 * size] times the second."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def normalised(x: Tensor, eps: float) -> Tensor:
    """x [..., size] / sqrt(mean(x^2) + eps).

    PyTorch has one kernel for a LayerNorm on a CPU, but eight for an RMSNorm. Over x and -x together the mean
    is 0 and the variance that of x, so the LayerNorm of both is the RMSNorm of each.
    """
    size = x.shape[-1]
    if not x.is_cpu:
        return F.rms_norm(x, (size,), None, eps)
    both = torch.cat((x, -x), dim=-1)
    return torch.layer_norm(both, (2 * size,), None, None, eps).narrow(-1, 0, size)

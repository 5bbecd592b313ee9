"""The small operations around the products of a model, and who does them on this machine."""

import importlib.util
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.errors import ConfigError
from stentor.layers.context import Place
from stentor.layers.convolution import Convolve, Filter, convolve
from stentor.layers.device import check_float8
from stentor.layers.linear import Added, Linear, Norm, Product
from stentor.layers.quantization import Scheme, make_product
from stentor.layers.rotary import Turn, rotate


class Kernels:
    """What a model asks for by name, so that a machine may do each in one kernel.

    A model is handed one of these when it is built. This one does an operation after the other, with
    PyTorch's own: it runs anywhere, is the CPU's, and the reference of every other.
    """

    def __init__(self, quantization: Scheme = "none") -> None:
        self._quantization = quantization

    def linear(self, weight: Tensor, norm: Norm | None = None) -> Product:
        """The product with `weight` [out_features, in_features]; with a `norm`, of x's RMSNorm:
        x [num_tokens, size] / sqrt(mean(x^2) + eps) * norm.weight [size] (arXiv:1910.07467).
        """
        return _of_norm(make_product(weight, self._quantization), norm)

    def residual(self, weight: Tensor) -> Added:
        """The product with `weight`, added to what is given beside x, which is used up."""
        product = make_product(weight, self._quantization)
        if isinstance(product, Linear):
            return product.added
        return lambda x, plus: plus.add_(product(x))

    def head(self, weight: Tensor, norm: Norm | None = None) -> Product:
        """The product that scores codes: it decides, so it is kept in 8 bits at the least, on a GPU whole.

        Of a small model, as a CPU runs them, it is half of what a step reads.
        """
        return _of_norm(make_product(weight, "int8" if self._quantization == "int8" else "none"), norm)

    def gated(self, weight: Tensor, norm: Norm | None = None) -> Product:
        """The product with `weight` [2 * size, in_features] and SwiGLU of it, [num_rows, size]: silu of the
        first half of each row times the second (arXiv:2002.05202); with a `norm`, of x's RMSNorm.
        """
        product = self.linear(weight, norm)
        return lambda x: silu_mul(product(x))

    def place_heads(self, qkv: Tensor, norm: Norm | None, turn: Turn, place: Place) -> Tensor:
        """Norm, if there is one, and rotate queries and keys, and put keys and values into the cache.

        Args:
            qkv: [num_tokens, num_heads + 2 * num_kv_heads, head_dim]: queries, keys, values; it is used up.
            norm: each head's RMSNorm, its weight [num_heads + num_kv_heads, head_dim].
            turn: the rotation of each token.
            place: where each token's keys and values go.

        Returns:
            The queries, [num_tokens, num_heads, head_dim].
        """
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
        """The sum of a row's codes in `table` [num_entries, size]: those at `rows` [num_rows, num_codebooks],
        negative ones taken as 0, plus `offsets` [num_codebooks]; [num_rows, size].
        """
        # The sum stays in the model's dtype, as in training: a float32 sum drifts away from it step by step.
        return F.embedding(rows.clamp(min=0) + offsets, table).sum(dim=1)

    def convolution(self, filter: Filter, then: Filter | None = None) -> Convolve:
        """What `layers.convolution.convolve` does. With `then` it is a residual unit: that filter, of one
        tap, reads what the first makes active, and the signal's `plain` is added to what it gives.
        """
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


def fuses(name: str, device: torch.device) -> bool:
    """Does the setting `name` ('auto', 'eager' or 'triton') mean Triton's kernels on `device`.

    Raises:
        ConfigError: they are asked for, but cannot run here.
    """
    obstacle = ""
    if device.type != "cuda":
        obstacle = f"they need a GPU, the device is {device.type}"
    elif importlib.util.find_spec("triton") is None:
        obstacle = "triton is not installed (it comes with PyTorch for CUDA)"
    if name == "triton" and obstacle:
        raise ConfigError(f"--kernels triton cannot run here: {obstacle}; use --kernels auto")
    return name != "eager" and not obstacle


def choose_kernels(
    name: str, device: torch.device, quantization: Scheme = "none", own_product_rows: int = -1
) -> Kernels:
    """The kernels that the setting `name` means on `device`, with weights kept as `quantization` says, and
    on a GPU products of up to `own_product_rows` rows by our own kernel; -1 is as many as it is faster at.

    Raises:
        ConfigError: as `fuses` does, or because this GPU, or one without Triton, cannot have such weights.
    """
    if not fuses(name, device):
        if quantization != "none" and device.type == "cuda":
            raise ConfigError(f"--quantization {quantization} needs Triton on a GPU: use --kernels auto")
        return Kernels(quantization)
    if quantization == "fp8":
        check_float8("--quantization", "int8", device)
    from stentor.layers.triton.fused import FusedKernels
    from stentor.layers.triton.tiles import most_rows

    if own_product_rows < 0:
        own_product_rows = most_rows(device)
    return FusedKernels(quantization, own_product_rows)

"""The small operations around the products of a model, and who does them on this machine."""

import importlib.util
from typing import Protocol

import torch
from torch import Tensor

from stentor.errors import ConfigError
from stentor.layers.context import Place
from stentor.layers.convolution import Convolve, Filter
from stentor.layers.device import check_float8
from stentor.layers.kernels.eager import EagerKernels
from stentor.layers.linear import Added, Norm, Product
from stentor.layers.quantization import Scheme
from stentor.layers.rotary import Turn

__all__ = ["EagerKernels", "Kernels", "choose_kernels", "fuses"]


class Kernels(Protocol):
    """What a model asks for by name, so that a machine may do each in one kernel.

    A model is handed one of these when it is built; `EagerKernels` is the reference.
    """

    def linear(self, weight: Tensor, norm: Norm | None = None) -> Product:
        """The product with `weight` [out_features, in_features]; with a `norm`, of x's RMSNorm:
        x [num_tokens, size] / sqrt(mean(x^2) + eps) * norm.weight [size] (arXiv:1910.07467).
        """

    def residual(self, weight: Tensor) -> Added:
        """The product with `weight`, added to what is given beside x, which is used up."""

    def head(self, weight: Tensor, norm: Norm | None = None) -> Product:
        """The product that scores codes: it decides, so it is kept in 8 bits at the least, on a GPU whole."""

    def gated(self, weight: Tensor, norm: Norm | None = None) -> Product:
        """The product with `weight` [2 * size, in_features] and SwiGLU of it, [num_rows, size]: silu of the
        first half of each row times the second (arXiv:2002.05202); with a `norm`, of x's RMSNorm.
        """

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

    def embed_codes(self, rows: Tensor, offsets: Tensor, table: Tensor) -> Tensor:
        """The sum of a row's codes in `table` [num_entries, size]: those at `rows` [num_rows, num_codebooks],
        negative ones taken as 0, plus `offsets` [num_codebooks]; [num_rows, size].
        """

    def convolution(self, filter: Filter, then: Filter | None = None) -> Convolve:
        """What `layers.convolution.convolve` does. With `then` it is a residual unit: that filter, of one
        tap, reads what the first makes active, and the signal's `plain` is added to what it gives.
        """


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
        return EagerKernels(quantization)
    if quantization == "fp8":
        check_float8("--quantization", "int8", device)
    from stentor.layers.triton.fused import FusedKernels
    from stentor.layers.triton.tiles import most_rows

    if own_product_rows < 0:
        own_product_rows = most_rows(device)
    return FusedKernels(quantization, own_product_rows)

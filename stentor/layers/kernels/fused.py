"""Every operation of `Kernels` in one launch, with Triton."""

from torch import Tensor

from stentor.layers.context import Place
from stentor.layers.linear import Product
from stentor.layers.quantization import Scheme, make_product
from stentor.layers.rotary import Turn
from stentor.layers.triton import heads, norm, pointwise


class FusedKernels:
    """Implements `Kernels` on a GPU."""

    def __init__(self, quantization: Scheme = "none") -> None:
        self._quantization = quantization

    def linear(self, weight: Tensor) -> Product:
        """See `Kernels.linear`."""
        return make_product(weight, self._quantization)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Kernels.rms_norm`."""
        return norm.rms_norm(x, weight, eps)

    def add_rms_norm(self, x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """See `Kernels.add_rms_norm`."""
        return norm.add_rms_norm(x, delta, weight, eps)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """See `Kernels.silu_mul`."""
        return pointwise.silu_mul(gate_up)

    def place_heads(self, qkv: Tensor, norm: Tensor, eps: float, turn: Turn, place: Place) -> Tensor:
        """See `Kernels.place_heads`."""
        return heads.place_heads(qkv, norm, eps, turn, place)

    def embed_codes(self, rows: Tensor, offsets: Tensor, table: Tensor) -> Tensor:
        """See `Kernels.embed_codes`."""
        return pointwise.embed_codes(rows, offsets, table)

"""Every operation of `Kernels` in one launch, with Triton."""

from torch import Tensor

from stentor.layers.context import Place
from stentor.layers.linear import Linear, Product
from stentor.layers.quantization import ByRows, Scheme, make_product
from stentor.layers.rotary import Turn
from stentor.layers.triton import heads, norm, pointwise
from stentor.layers.triton.products import SkinnyProduct


class FusedKernels:
    """Implements `Kernels` on a GPU."""

    def __init__(self, quantization: Scheme = "none", own_product_rows: int = 0) -> None:
        """Products of up to `own_product_rows` rows are our own kernel's, more are the library's."""
        self._quantization = quantization
        self._own_product_rows = own_product_rows

    def linear(self, weight: Tensor) -> Product:
        """See `Kernels.linear`."""
        return self._product(weight)

    def head(self, weight: Tensor) -> Product:
        """See `Kernels.head`: of a large model it is half a percent of the weights."""
        return Linear(weight)

    def gated(self, weight: Tensor) -> Product:
        """See `Kernels.gated`; one launch where the product is our own kernel's."""
        return self._product(weight, pointwise.silu_mul)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Kernels.rms_norm`."""
        return norm.rms_norm(x, weight, eps)

    def add_rms_norm(self, x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """See `Kernels.add_rms_norm`."""
        return norm.add_rms_norm(x, delta, weight, eps)

    def place_heads(self, qkv: Tensor, norm: Tensor, eps: float, turn: Turn, place: Place) -> Tensor:
        """See `Kernels.place_heads`."""
        return heads.place_heads(qkv, norm, eps, turn, place)

    def embed_codes(self, rows: Tensor, offsets: Tensor, table: Tensor) -> Tensor:
        """See `Kernels.embed_codes`."""
        return pointwise.embed_codes(rows, offsets, table)

    def _product(self, weight: Tensor, then: Product | None = None) -> Product:
        product = make_product(weight, self._quantization, then)
        if self._quantization == "none" and self._own_product_rows:
            few = SkinnyProduct(weight, gated=then is not None)
            return ByRows(self._own_product_rows, few, product)
        return product

"""Every operation of `Kernels` in one launch, with Triton."""

from torch import Tensor

from stentor.layers.linear import Linear, Product
from stentor.layers.quantization import ByRows, Scheme, make_product
from stentor.layers.triton import convolution, heads, pointwise, rows
from stentor.layers.triton.products import SkinnyProduct


class FusedKernels:
    """Implements `Kernels`, which says what each method is, on a GPU."""

    rms_norm = staticmethod(rows.rms_norm)
    add_rms_norm = staticmethod(rows.add_rms_norm)
    place_heads = staticmethod(heads.place_heads)
    embed_codes = staticmethod(pointwise.embed_codes)
    convolution = staticmethod(convolution.convolution)

    def __init__(self, quantization: Scheme = "none", own_product_rows: int = 0) -> None:
        """Products of up to `own_product_rows` rows are our own kernel's, more are the library's."""
        self._quantization = quantization
        self._own_product_rows = own_product_rows

    def linear(self, weight: Tensor) -> Product:
        return self._product(weight)

    def head(self, weight: Tensor) -> Product:
        """Of a large model it is half a percent of the weights."""
        return self._by_rows(weight, Linear(weight))

    def gated(self, weight: Tensor) -> Product:
        """One launch where the product is our own kernel's."""
        return self._product(weight, pointwise.silu_mul)

    def _product(self, weight: Tensor, then: Product | None = None) -> Product:
        product = make_product(weight, self._quantization, then)
        return self._by_rows(weight, product, then is not None) if self._quantization == "none" else product

    def _by_rows(self, weight: Tensor, many: Product, gated: bool = False) -> Product:
        if not self._own_product_rows:
            return many
        return ByRows(self._own_product_rows, SkinnyProduct(weight, gated=gated), many)

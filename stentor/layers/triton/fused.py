"""Every operation of `Kernels` in one launch, with Triton."""

from torch import Tensor

from stentor.layers.kernels import Kernels
from stentor.layers.linear import Added, Linear, Norm, Product
from stentor.layers.quantization import Scheme, float8_product, quantize, restored
from stentor.layers.triton import convolution, heads, pointwise, rows
from stentor.layers.triton.products import MOST_ROWS, SkinnyProduct

# Up to this many rows reading a float8 weight is all that counts; more are multiplied in float8.
_MOST_ROWS_OF_FLOAT8 = 16


class FusedKernels(Kernels):
    """All of it on a GPU."""

    place_heads = staticmethod(heads.place_heads)
    embed_codes = staticmethod(pointwise.embed_codes)
    convolution = staticmethod(convolution.convolution)

    def __init__(self, quantization: Scheme = "none", own_product_rows: int = 0) -> None:
        """Products of up to `own_product_rows` rows are our own kernel's, more are the library's."""
        super().__init__(quantization)
        self._own_product_rows = own_product_rows

    def linear(self, weight: Tensor, norm: Norm | None = None) -> Product:
        return ByRows(weight, self._quantization, self._own_product_rows, norm=norm)

    def residual(self, weight: Tensor) -> Added:
        return ByRows(weight, self._quantization, self._own_product_rows)

    def head(self, weight: Tensor, norm: Norm | None = None) -> Product:
        """Of a large model it is half a percent of the weights."""
        return ByRows(weight, "none", self._own_product_rows, norm=norm)

    def gated(self, weight: Tensor, norm: Norm | None = None) -> Product:
        """One launch where the product is our own kernel's."""
        return ByRows(weight, self._quantization, self._own_product_rows, norm=norm, gated=True)


class ByRows:
    """One product for few rows, where reading the weight is all that counts, another for more."""

    def __init__(
        self, weight: Tensor, scheme: Scheme, own: int, *, norm: Norm | None = None, gated: bool = False
    ) -> None:
        self._norm, self._gated = norm, gated
        self._few: SkinnyProduct | None = None
        self._many: Product
        if scheme == "none":
            self._most_rows, self._many = own, Linear(weight)
            if own:
                self._few = SkinnyProduct(weight, gated=gated, norm=norm)
            return
        kept = quantize(weight, scheme)
        scale = kept.scale if scheme == "int4" else kept.scale[:, 0]
        self._few = SkinnyProduct(kept.values, scale, gated=gated, norm=norm)
        if scheme == "fp8":
            self._most_rows, self._many = _MOST_ROWS_OF_FLOAT8, float8_product(kept, rows.round_rows)
        else:
            self._most_rows, self._many = MOST_ROWS, restored(kept)

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """See `SkinnyProduct.__call__`, of any number of rows."""
        if self._few is not None and len(x) <= self._most_rows:
            return self._few(x, plus)
        if self._norm is not None:
            x = rows.rms_norm(x, *self._norm)
        if plus is None:
            y = self._many(x)
            return pointwise.silu_mul(y) if self._gated else y
        return self._many.added(x, plus) if isinstance(self._many, Linear) else plus.add_(self._many(x))

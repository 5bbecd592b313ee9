"""Products with a weight matrix whose rows do not feel each other: alone or in company, the same bits."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# [num_rows, in_features] to [num_rows, out_features], whatever the weight is kept in.
Product = Callable[[Tensor], Tensor]
# The same, added to what is given beside it, [num_rows, out_features], which is used up.
Added = Callable[[Tensor, Tensor], Tensor]


class Norm(NamedTuple):
    """An RMSNorm: its weight [size], and what is added to the mean of squares."""

    weight: Tensor
    eps: float


# oneDNN packs a weight for about this many rows; any number may come.
_EXPECTED_ROWS = 16
# MKL rounds the rows that are left over from its tiles of this many otherwise than the others.
_PLAIN_TILE = 4


class Linear:
    """x @ weight.T (+ bias) for a fixed weight [out_features, in_features] and bias [out_features].

    The same seed must give the same speech in any batch, so a row of x [num_rows, in_features] must give the
    same row of the result whatever stands beside it. On a CPU, oneDNN's own layout of the weight gives that
    from two rows on (in less than half the time of the plain layout in float32); where it does not know the
    dtype, whole tiles do. float64 is for checking only and may feel its neighbours.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._bias = bias
        self._packed = packs(weight)
        if self._packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _EXPECTED_ROWS)
        self._weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """[num_rows, in_features] to [num_rows, out_features]."""
        if self._packed:
            return self._packed_product(x) if len(x) > 1 else self._packed_product(torch.cat((x, x)))[:1]
        missing = -len(x) % _PLAIN_TILE
        if missing and x.device.type == "cpu":
            return F.linear(F.pad(x, (0, 0, 0, missing)), self._weight, self._bias)[: len(x)]
        return F.linear(x, self._weight, self._bias)

    def added(self, x: Tensor, plus: Tensor) -> Tensor:
        """The product plus `plus` [num_rows, out_features], which is used up; on a GPU in one pass."""
        if x.device.type == "cpu" or self._bias is not None:
            return plus.add_(self(x))
        return plus.addmm_(x, self._weight.t())

    def _packed_product(self, x: Tensor) -> Tensor:
        pointwise = torch.ops.mkldnn._linear_pointwise.default
        product: Tensor = pointwise(x, self._weight, self._bias, "none", [], "")
        return product


def packs(weight: Tensor) -> bool:
    """Does oneDNN know this weight's dtype, on a CPU."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32

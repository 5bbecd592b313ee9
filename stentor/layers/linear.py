"""Products with a weight matrix whose rows do not feel each other: alone or in company, the same bits."""

import torch
import torch.nn.functional as F
from torch import Tensor

# oneDNN packs a weight for about this many rows; any number may come.
_EXPECTED_ROWS = 16
# Below these, a CPU takes another kernel, which rounds otherwise than the one for larger batches.
_FEWEST_ROWS_PACKED = 2
_FEWEST_ROWS_PLAIN = 4


class Linear:
    """x @ weight.T for a fixed weight [out_features, in_features].

    The same seed must give the same speech in any batch, so one row of x [num_rows, in_features] must give
    the same row of the result whatever stands beside it. On a CPU, oneDNN's own layout of the weight gives
    that (in float32 in less than half the time of the plain one); where it does not know the dtype, padding
    to a few rows does.
    """

    def __init__(self, weight: Tensor) -> None:
        self._packed = _packs(weight)
        self._fewest_rows = 1
        if weight.device.type == "cpu":
            self._fewest_rows = _FEWEST_ROWS_PACKED if self._packed else _FEWEST_ROWS_PLAIN
        if self._packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _EXPECTED_ROWS)
        self._weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """[num_rows, in_features] to [num_rows, out_features]."""
        if len(x) >= self._fewest_rows:
            return self._product(x)
        copies = -(-self._fewest_rows // len(x))
        return self._product(torch.cat([x] * copies))[: len(x)]

    def _product(self, x: Tensor) -> Tensor:
        if self._packed:
            product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
            return product
        return F.linear(x, self._weight)


def _packs(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32

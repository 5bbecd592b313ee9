"""Weights in 8 or 4 bits: how they are rounded, and the products that read them as they are.

Each row of a weight (an output channel) has its own scale; int4 has one for each group of a row. Activations
keep their arithmetic, but for float8 with many rows, where the card multiplies 8 bits faster: there each row
of x is rounded by its own scale too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.errors import ConfigError
from stentor.layers.linear import Linear, Product

Scheme = Literal["none", "int8", "fp8", "int4"]

# Weights of one int4 group share a scale.
INT4_GROUP = 128
# Columns that PyTorch's int8 kernel for a CPU takes at once.
_INT8_STEP = 16
_FLOAT8 = torch.float8_e4m3fn
_LARGEST = {"int8": 127.0, "fp8": torch.finfo(_FLOAT8).max, "int4": 7.0}


@dataclass(frozen=True)
class Quantized:
    """A weight [out_features, in_features] as it is kept.

    `values` int8 or float8_e4m3fn [out_features, in_features] with `scale` float32 [out_features, 1]; or, for
    int4, uint8 [out_features, in_features / 2] with `scale` [out_features, in_features / INT4_GROUP]: byte j
    of a group holds its numbers j (low bits) and j + INT4_GROUP / 2, plus 8.
    """

    values: Tensor
    scale: Tensor


def choose_scheme(name: Scheme | Literal["auto"], device: torch.device, dtype: torch.dtype) -> Scheme:
    """What the setting means: 'auto' is int8 where a step waits for its weights and loses nothing that is
    heard by it, which is known of bfloat16 on a CPU (docs/decisions/0014).
    """
    if name != "auto":
        return name
    return "int8" if device.type == "cpu" and dtype == torch.bfloat16 else "none"


def quantize(weight: Tensor, scheme: Scheme) -> Quantized:
    """Round a weight, symmetrically, to the nearest that `scheme` can say.

    Raises:
        ConfigError: int4 needs whole groups of columns.
    """
    rows, columns = weight.shape
    if scheme == "int4" and columns % INT4_GROUP:
        raise ConfigError(
            f"int4 needs weights with a multiple of {INT4_GROUP} columns, this model has {columns}: use int8"
        )
    groups = weight.float().view(rows, columns // INT4_GROUP if scheme == "int4" else 1, -1)
    # Never zero: a row of zeros stays one.
    scale = groups.abs().amax(-1).clamp(min=1e-12) / _LARGEST[scheme]
    numbers = groups / scale[..., None]
    if scheme == "fp8":
        return Quantized(numbers.view(rows, columns).to(_FLOAT8), scale)
    numbers = numbers.round_().clamp_(-_LARGEST[scheme], _LARGEST[scheme])
    if scheme == "int8":
        return Quantized(numbers.view(rows, columns).to(torch.int8), scale)
    low, high = (numbers + 8).to(torch.uint8).chunk(2, dim=-1)
    return Quantized((low | (high << 4)).view(rows, -1), scale)


def restore(weight: Quantized, dtype: torch.dtype) -> Tensor:
    """The weight that the numbers stand for, [out_features, in_features]."""
    rows, groups = weight.scale.shape
    values = weight.values
    if values.dtype == torch.uint8:
        pairs = values.view(rows, groups, -1)
        values = torch.cat((pairs & 15, pairs >> 4), dim=-1).to(torch.int8) - 8
    return (values.view(rows, groups, -1).float() * weight.scale[..., None]).view(rows, -1).to(dtype)


def make_product(weight: Tensor, scheme: Scheme) -> Product:
    """The product with a weight [out_features, in_features], whole anywhere, else kept as a CPU can.

    Raises:
        ConfigError: a CPU does not have such weights.
    """
    if scheme == "none":
        return Linear(weight)
    if scheme != "int8":
        raise ConfigError(f"--quantization {scheme} needs a GPU; a CPU has 'int8'")
    if weight.dtype == torch.float64:
        raise ConfigError("--quantization int8 does not go with --dtype float64: use none")
    return _int8_on_cpu(quantize(weight, scheme), weight.dtype)


def _int8_on_cpu(weight: Quantized, dtype: torch.dtype) -> Product:
    """int8 weights, read as they are by PyTorch's own kernel, whose rows do not feel each other."""
    # The kernel reads beyond what is no whole step, and crashes there.
    missing = -weight.values.shape[1] % _INT8_STEP
    values, scale = F.pad(weight.values, (0, missing)), weight.scale[:, 0].to(dtype)

    def product(x: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(F.pad(x, (0, missing)) if missing else x, values, scale)

    return product


def restored(weight: Quantized) -> Product:
    """For many rows: the weight is restored each time, and the library multiplies it."""
    return lambda x: F.linear(x, restore(weight, x.dtype))


def float8_product(weight: Quantized, round_rows: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Product:
    """For many rows: both sides in float8, each row with its scale, multiplied by the card's 8-bit units."""
    values, scale_b = weight.values.t(), weight.scale.t()

    def product(x: Tensor) -> Tensor:
        rounded, scale_a = round_rows(x)
        y = torch._scaled_mm(rounded, values, scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16)
        return y.to(x.dtype)

    return product


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` [num_rows, size] in float8 and each row's scale, float32 [num_rows, 1]: the kernel's reference."""
    scale = x.float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / _LARGEST["fp8"]
    return (x.float() / scale).to(_FLOAT8), scale

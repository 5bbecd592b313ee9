"""One source for two array libraries: PyTorch where a step is captured, NumPy where it runs on a CPU.

A sampler is a hundred operations on a few hundred numbers. There NumPy takes a third of PyTorch's time, which
is all dispatch. These are the few operations that the two spell differently.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

Values = Any
"""A tensor, or a NumPy array; all of one call are of one kind."""


def library(values: Values) -> Any:
    """`torch` or `numpy`, whichever these values belong to."""
    return torch if isinstance(values, Tensor) else np


def cast(values: Values, dtype: str) -> Values:
    """The values in another arithmetic, which both libraries name alike."""
    if isinstance(values, Tensor):
        return values.to(getattr(torch, dtype))
    return values.astype(dtype)


def fill(values: Values, mask: Values, value: float) -> Values:
    """The values with `value` where the mask is true; nothing is copied from the host to do so."""
    if isinstance(values, Tensor):
        return values.masked_fill(mask, value)
    return np.where(mask, values.dtype.type(value), values)


def count(size: int, like: Values, dtype: str = "int64") -> Values:
    """0 .. size - 1, where `like` is."""
    if isinstance(like, Tensor):
        return torch.arange(size, dtype=getattr(torch, dtype), device=like.device)
    return np.arange(size, dtype=dtype)


def pick(values: Values, index: Values) -> Values:
    """From each last dimension of `values` [..., size] the one at `index` [...]."""
    if isinstance(values, Tensor):
        return values.gather(-1, index[..., None])[..., 0]
    flat = values.reshape(-1, values.shape[-1])
    return flat[np.arange(len(flat)), index.reshape(-1)].reshape(index.shape)

"""Weights that are random numbers, for the benchmarks of a checkpoint whose own are not at hand."""

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stentor.models.weights import Shapes

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class DummyWeights:
    """Random numbers in the wanted shapes, the same for a seed and a name; made where they will be used."""

    shapes: Shapes
    dtype: "torch.dtype"
    device: "torch.device"
    seed: int = 0

    def tensor(self, name: str) -> "Tensor":
        """Normal values of variance 1 / fan-in for matrices, ones for scales, zeros for biases."""
        import torch

        shape = self.shapes[name]
        if max(shape) == math.prod(shape):
            fill = 0.0 if name.endswith("bias") else 1.0
            return torch.full(shape, fill, dtype=self.dtype, device=self.device)
        generator = torch.Generator(self.device).manual_seed(zlib.crc32(name.encode()) ^ self.seed)
        values = torch.empty(shape, dtype=self.dtype, device=self.device)
        return values.normal_(0.0, (shape[0] / values.numel()) ** 0.5, generator=generator)

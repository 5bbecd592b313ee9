"""The codec's parameters as plain float32 tensors, whichever layout the checkpoint has them in."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.inventory import Part, parts
from stentor.models.weights import Weights


@dataclass(frozen=True)
class CodecWeights:
    """Reads parameters by their names in transformers' layout, with weight normalisation merged.

    `prefix` is what stands before every name of a codec that is bundled in a larger checkpoint.
    """

    source: Weights
    config: CodecConfig
    prefix: str = ""
    _parts: dict[str, Part] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = (
            name.removeprefix(self.prefix) for name in self.source.shapes if name.startswith(self.prefix)
        )
        object.__setattr__(self, "_parts", parts(self.config, frozenset(names)))

    def __call__(self, name: str) -> Tensor:
        """One parameter, float32 on the CPU. Raises CheckpointError if it is not there or damaged."""
        part = self._parts[name]
        tensors = [self.source.tensor(self.prefix + stored).to("cpu", torch.float32) for stored in part.names]
        if part.norm_dim is None:
            return tensors[0]
        magnitude, direction = tensors
        return merge_weight_norm(magnitude, direction, part.norm_dim)


def merge_weight_norm(magnitude: Tensor, direction: Tensor, dim: int) -> Tensor:
    """magnitude * direction / ||direction||, the norm over all dimensions but `dim` (arXiv:1602.07868)."""
    others = [other for other in range(direction.ndim) if other != dim]
    norm: Tensor = torch.linalg.vector_norm(direction, dim=others, keepdim=True)
    return magnitude * direction / norm

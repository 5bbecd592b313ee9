"""Rotary position embedding in the half-split (NeoX) layout."""

from collections.abc import Callable

import torch
from torch import Tensor

# cos and signed sin of some tokens, each [num_tokens, 1, head_dim].
Turn = tuple[Tensor, Tensor]


class RotaryTable:
    """cos and signed sin of every position, [max_positions, head_dim] in the model's arithmetic.

    Angles are position * theta^(-2i/head_dim), computed in float64; only cos and sin are rounded to the
    model's dtype, as in training (RoFormer, arXiv:2104.09864). `scale` is what a model that was made to read
    longer contexts does to its frequencies [head_dim / 2].
    """

    def __init__(
        self,
        head_dim: int,
        max_positions: int,
        theta: float,
        dtype: torch.dtype,
        device: torch.device,
        scale: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
        frequencies = theta**-exponents if scale is None else scale(theta**-exponents)
        angles = torch.outer(torch.arange(max_positions, dtype=torch.float64), frequencies)
        self._cos = torch.cat((angles.cos(), angles.cos()), dim=1).to(device, dtype)
        # rotate(x) = (-x2, x1) equals a roll by half a head with the sign moved into sin: one kernel less.
        self._sin = torch.cat((-angles.sin(), angles.sin()), dim=1).to(device, dtype)

    def at(self, positions: Tensor) -> Turn:
        """cos and signed sin for `positions` [num_tokens], each [num_tokens, 1, head_dim]."""
        return self._cos[positions][:, None], self._sin[positions][:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the heads of `x` [num_tokens, num_heads, head_dim] to their positions."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)

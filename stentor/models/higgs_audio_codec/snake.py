"""The Snake activation for one CPU core: Snake(x) = x + sin²(a x) / a (arXiv:2006.08195, a per channel).

It is computed as u + sin²(u) with u = a x: the convolutions before and after it hold the factors a and 1 / a.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.layers.convolution import SNAKE_EPSILON


class Snake:
    """Gives `alpha` times the activation: the next convolution's weights must have gone through `unscale`."""

    def __init__(self, alpha: Tensor, place: Callable[[Tensor], Tensor]) -> None:
        """`place` brings values to the device and the arithmetic."""
        self.scale = place(alpha.double().flatten() + SNAKE_EPSILON)
        # As it was rounded: what is scaled by one is unscaled by the other.
        self.alpha = self.scale.double().cpu()

    def unscale(self, weight: Tensor, *, dim: int) -> Tensor:
        """Weights, float64, for inputs `alpha` times as large; `dim` is that of the input channels."""
        shape = [-1 if other == dim else 1 for other in range(weight.ndim)]
        return weight.double() / self.alpha.reshape(shape)


def snake(
    x: Tensor,
    scale: Tensor | None = None,
    lengths: Tensor | None = None,
    window: tuple[int, int] | None = None,
) -> Tensor:
    """u + sin²(u), where u = x * scale.

    Args:
        x: signals, [batch, time, channels]; used up if there is no scale.
        scale: [channels], if any.
        lengths: integers [batch], if some of the signals end before x does.
        window: the first of the wanted steps and their number, if not all of x; it has one at least.

    Returns:
        [batch, number, channels]: zero behind the end of a signal and beyond the edges of x.
    """
    first, size = window or (0, x.shape[1])
    begin = max(first, 0)
    u = x[:, begin : first + size]
    u = u if scale is None else u * scale
    sines = sine(u)
    y = u.addcmul_(sines, sines)
    if lengths is not None:
        places = torch.arange(begin, begin + y.shape[1], device=x.device)
        y.masked_fill_(places[:, None] >= lengths[:, None, None], 0.0)
    return cut(y, first - begin, size)


def sine(u: Tensor) -> Tensor:
    """sin(u); numpy's float32 sine takes 0.4 of PyTorch's time on one core (0.37 against 0.95 ns a value)."""
    if not u.is_cpu or u.dtype != torch.float32:
        return torch.sin(u)
    out = torch.empty_like(u)
    np.sin(u.numpy(), out=out.numpy())
    return out


def cut(x: Tensor, start: int, size: int) -> Tensor:
    """x[:, start : start + size] of signals [batch, time, channels], with zeros beyond their edges."""
    before, after = max(-start, 0), max(start + size - x.shape[1], 0)
    piece = x[:, max(start, 0) : start + size]
    return F.pad(piece, (0, 0, before, after)) if before or after else piece

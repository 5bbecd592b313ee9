"""What a convolution over time is, whoever computes it: filters, signals, and the reference of both."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Snake's definition adds this to its parameter, which only matters where that is 0.
SNAKE_EPSILON = 1e-9


class Signal(NamedTuple):
    """Signals that share a batch, [batch, time, channels] each, on their way from one filter to the next.

    `active` is what the next filter reads, `plain` the same without the Snake (arXiv:2006.08195) in between,
    where it is to be added to a result. Signal i ends after `lengths[i] * frame_steps` steps, or with all
    if there are no lengths; what stands behind its end means nothing, and nobody looks at it.
    """

    plain: Tensor | None
    active: Tensor
    lengths: Tensor | None = None
    frame_steps: int = 1


Convolve = Callable[[Signal], Signal]


@dataclass(frozen=True)
class Filter:
    """y[t] = bias + sum over k of weight[:, :, k] x[t + dilation (k - taps // 2)], then Snake with `alpha`.

    `weight` is [stride * channels, inputs, taps], `bias` [stride * channels], `alpha` [channels] or None.
    Of an odd number of taps the output is as long as x. Of two taps it stands between the steps of x, and
    each of its steps is `stride` steps of the result, which begins ceil(stride / 2) steps into the first: a
    transposed convolution of kernel 2 * stride.
    """

    weight: Tensor
    bias: Tensor
    alpha: Tensor | None = None
    dilation: int = 1
    stride: int = 1
    # Whether the result is wanted without its Snake too.
    keeps_plain: bool = False
    # Whether float32 may be TensorFloat32 where it is multiplied.
    rounds_float32: bool = False

    @property
    def padding(self) -> int:
        """Steps before the beginning that the first output looks at."""
        return self.dilation * (self.weight.shape[2] // 2)

    @property
    def excess(self) -> int:
        """Steps that come out before the result begins."""
        return 0 if self.weight.shape[2] % 2 else -(-self.stride // 2)

    @property
    def rounds(self) -> bool:
        """Is what it multiplies, and what its result is made of, rounded to TensorFloat32."""
        return self.weight.dtype == torch.float32 and self.rounds_float32

    @property
    def parts(self) -> int:
        """Into how many TensorFloat32 a weight goes for its arithmetic; one of 16 bits is one as it is."""
        return 2 if self.weight.dtype == torch.float32 and not self.rounds_float32 else 1

    def split(self, weight: Tensor) -> Tensor:
        """[..., outputs, inner] to [..., parts, outputs, inner]: float32 as the nearest TensorFloat32 (a card
        would cut off what it does not take) and, where it is to be exact, what that lacks.
        """
        if weight.dtype != torch.float32:
            return weight.unsqueeze(-3).contiguous()
        nearest = ((weight.contiguous().view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
        return torch.stack((nearest, weight - nearest)[: self.parts], dim=-3)

    def outputs(self, time: int) -> int:
        """Places of the filter over `time` steps: one more than these where it stands between them."""
        return time + 2 * self.padding - self.dilation * (self.weight.shape[2] - 1)


def convolve(filter: Filter, signal: Signal) -> Signal:
    """One filter in PyTorch's own operations: products alone, so that a GPU needs no library's switches.

    The signal's `plain`, if it has one, is added before the Snake. Without a Snake `active` is float32.
    """
    x, time = signal.active, signal.active.shape[1]
    if signal.lengths is not None:
        ends = signal.lengths.int() * signal.frame_steps
        x = x.masked_fill(torch.arange(time, device=x.device)[:, None] >= ends[:, None, None], 0.0)
    x, size = F.pad(x, (0, 0, filter.padding, filter.padding)), filter.outputs(time)
    y = filter.bias.to(x.dtype)
    for tap, weight in enumerate(filter.weight.to(x.dtype).unbind(2)):
        start = tap * filter.dilation
        y = (x[:, start : start + size] @ weight.T).add_(y)
    y = y.reshape(len(x), size * filter.stride, -1).narrow(1, filter.excess, time * filter.stride)
    y = y if signal.plain is None else y.add_(signal.plain)
    steps = signal.frame_steps * filter.stride
    if filter.alpha is None:
        return Signal(y if filter.keeps_plain else None, y.float(), signal.lengths, steps)
    alpha = filter.alpha.to(x.dtype)
    active = (alpha * y).sin_().square_().mul_((filter.alpha + SNAKE_EPSILON).reciprocal()).add_(y)
    return Signal(y if filter.keeps_plain else None, active, signal.lengths, steps)

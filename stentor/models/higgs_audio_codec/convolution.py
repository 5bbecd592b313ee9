"""Convolutions over time and the residual unit, laid out for speed on one CPU core.

Signals are [batch, time, channels], which oneDNN convolves without reordering. Signals of different `lengths`
(integers [batch]) may share a batch. Every Snake that stands before a look sideways clears what is behind a
signal, so it ends as it would alone, and nothing hangs on a value. What a GPU does is in `gpu_decoder`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.layers.linear import Linear, packs
from stentor.models.higgs_audio_codec.config import RESIDUAL_DILATIONS, RESIDUAL_KERNEL
from stentor.models.higgs_audio_codec.snake import Snake, cut, snake

ReadWeight = Callable[[str], Tensor]
"""Gives a parameter, float32, by its name in transformers' layout."""

# Signals of more time steps are cut into tiles of at least these steps and about this many values.
_SMALLEST_TILED = 1024
_TILE_VALUES = 1 << 17
# The last tile is rounded up to one of this many sizes.
_SIZES = 8


@dataclass(frozen=True)
class Target:
    """Where a network runs, and in which arithmetic."""

    device: torch.device
    dtype: torch.dtype

    def place(self, values: Tensor) -> Tensor:
        """`values` there; four-dimensional ones with the channels innermost."""
        layout = torch.channels_last if values.ndim == 4 else torch.preserve_format
        return values.to(self.device, self.dtype, memory_format=layout)


class Convolution:
    """An optional Snake, then y[t] = bias + sum over k of weight[:, :, k] x[stride t + dilation k - padding].

    `weight` is [out, in, kernel], `bias` [out]; beyond its edges the signal is zero, as Snake(0) is.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        target: Target,
        snake: Snake | None = None,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
    ) -> None:
        unscaled = weight if snake is None else snake.unscale(weight, dim=1)
        self.weight = target.place(unscaled.unsqueeze(2))
        self.bias = target.place(bias)
        self._snake = snake
        self._stride, self._padding, self._dilation = stride, padding, dilation
        self._reach = dilation * (weight.shape[-1] - 1)

    def __call__(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """[batch, time, in] to [batch, floor((time + 2 padding - reach - 1) / stride) + 1, out].

        `lengths` are for the Snake; without one, the signal must be clear behind them.
        """
        outputs = (x.shape[1] + 2 * self._padding - self._reach - 1) // self._stride + 1
        parts = tiles(outputs, x)
        return join([self.part(x, start, size, lengths)[:, : outputs - start] for start, size in parts])

    def part(self, x: Tensor, start: int, size: int, lengths: Tensor | None = None) -> Tensor:
        """The outputs from `start` to `start + size`; the signal may end before."""
        first, span = start * self._stride - self._padding, (size - 1) * self._stride + self._reach + 1
        if self._snake is None:
            inputs = cut(x, first, span)
        else:
            inputs = snake(x, self._snake.scale, lengths, (first, span))
        image = inputs.transpose(1, 2).unsqueeze(2)
        stride, padding, dilation = (1, self._stride), (0, 0), (1, self._dilation)
        if tuned(x) and packs(self.weight):
            # PyTorch would take other kernels for a lone short signal, which round otherwise.
            convolved = torch.mkldnn_convolution(image, self.weight, self.bias, padding, stride, dilation, 1)
        else:
            convolved = F.conv2d(image, self.weight, self.bias, stride, padding, dilation)
        return convolved.squeeze(2).transpose(1, 2)


class PointwiseConvolution:
    """A convolution of kernel 1: the same matrix at every time step. `weight` is [out, in, 1]."""

    def __init__(self, weight: Tensor, bias: Tensor, target: Target) -> None:
        self._product = Linear(target.place(weight.squeeze(2)), target.place(bias))

    def __call__(self, x: Tensor) -> Tensor:
        """[batch, time, in] to [batch, time, out]."""
        return self._product(x.flatten(0, 1)).view(*x.shape[:2], -1)


class UpsamplingConvolution:
    """Snake, then a transposed convolution of kernel 2 * stride: the output is stride times as long.

    `weight` is [in, out, 2 * stride]. The output padding of stride % 2 is what the codec adds to the original
    network (Descript audio codec, arXiv:2306.06546), so that odd strides lose no samples. Computed as a plain
    convolution of kernel 2 that gives all `stride` samples between two inputs as channels: oneDNN prepares
    that for a new length fifteen times as fast as a transposed one.
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, target: Target, snake: Snake) -> None:
        self._channels = weight.shape[1]
        self._stride, self._excess = stride, -(-stride // 2)
        self._conv = Convolution(phases(weight), bias.repeat(stride), target, snake, padding=1)

    def __call__(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """[batch, time, in] to [batch, stride * time, out]."""
        samples = self._conv(x, lengths).reshape(len(x), -1, self._channels)
        return samples.narrow(1, self._excess, x.shape[1] * self._stride)


class ResidualUnit:
    """x + conv2(snake2(conv1(snake1(x)))), as long as x; `place` is its name, `dilation` that of conv1."""

    def __init__(self, read: ReadWeight, place: str, dilation: int, target: Target) -> None:
        snake2 = Snake(read(f"{place}.snake2.alpha"), target.place)
        self._conv1 = Convolution(
            read(f"{place}.conv1.weight") * snake2.alpha[:, None, None],
            read(f"{place}.conv1.bias") * snake2.alpha,
            target,
            Snake(read(f"{place}.snake1.alpha"), target.place),
            padding=dilation * (RESIDUAL_KERNEL // 2),
            dilation=dilation,
        )
        weight = snake2.unscale(read(f"{place}.conv2.weight"), dim=1)
        self._conv2 = PointwiseConvolution(weight, read(f"{place}.conv2.bias"), target)

    def __call__(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """[batch, time, channels] to the same shape."""
        parts = []
        for start, size in tiles(x.shape[1], x):
            inner = self._conv1.part(x, start, size, lengths)
            change = self._conv2(snake(inner))[:, : x.shape[1] - start]
            parts.append(change.add_(x[:, start : start + size]))
        return join(parts)


def phases(weight: Tensor) -> Tensor:
    """A transposed convolution [in, out, 2 * stride] as a plain one of kernel 2, [stride * out, in, 2].

    Output sample r after input i is reached by tap r of input i and tap stride + r of input i - 1.
    """
    inputs, _, taps = weight.shape
    both = torch.stack((weight[:, :, taps // 2 :], weight[:, :, : taps // 2]), dim=-1)
    return both.permute(2, 1, 0, 3).reshape(-1, inputs, 2)


def tiles(time: int, x: Tensor) -> list[tuple[int, int]]:
    """Cuts `time` steps that are computed from `x` into (start, size); the last may reach beyond the end.

    On a CPU there are few different sizes: oneDNN compiles and keeps a convolution for every length that it
    meets, with about a megabyte of tables per second of output. Whole signals of all lengths would fill
    gigabytes.
    """
    if time <= _SMALLEST_TILED or not tuned(x):
        return [(0, time)]
    largest = max(_SMALLEST_TILED, _TILE_VALUES // x.shape[2])
    starts = range(0, time, largest)
    step = largest // _SIZES
    rest = -(-(time - starts[-1]) // step) * step
    return [(start, largest) for start in starts[:-1]] + [(starts[-1], rest)]


def tuned(x: Tensor) -> bool:
    """Is this a CPU, where signals are cut; a GPU gets the plain operations."""
    return x.device.type == "cpu"


def join(parts: list[Tensor]) -> Tensor:
    """One signal of the consecutive parts."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def residual_units(read: ReadWeight, place: str, target: Target) -> list[ResidualUnit]:
    """The three units of a block, of growing dilation."""
    return [
        ResidualUnit(read, f"{place}.res_unit{number}", dilation, target)
        for number, dilation in enumerate(RESIDUAL_DILATIONS, start=1)
    ]

"""Convolutions over time, the Snake activation and the residual unit, laid out for speed on one CPU core.

Signals are [batch, channels, 1, time] with the channels innermost in memory, which oneDNN convolves without
reordering. Snake(x) = x + sin²(a x) / a (arXiv:2006.08195, a per channel) is computed in two passes as
u + sin²(u) with u = a x: the convolution before it or after it holds the factors a and 1 / a.

Signals of different lengths may share a batch: `beyond` [batch, 1, 1, time] is true where a signal has ended.
Every Snake clears what stands there, so a signal ends as it would alone, and nothing hangs on a value.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.layers.linear import Linear, packs
from stentor.models.higgs_audio_codec.config import RESIDUAL_DILATIONS, RESIDUAL_KERNEL

ReadWeight = Callable[[str], Tensor]
"""Gives a parameter, float32, by its name in transformers' layout."""

# Signals of more time steps are cut into tiles of at least these steps and about this many values.
_SMALLEST_TILED = 1024
_TILE_VALUES = 1 << 17
# The last tile is rounded up to one of this many sizes.
_SIZES = 8
# Snake's definition adds this to a, which only matters where a is 0.
_SNAKE_EPSILON = 1e-9
# cuDNN's switches are the process's: whoever changes them for a while does so alone.
_SWITCHES = threading.RLock()


@dataclass(frozen=True)
class Target:
    """Where a network runs and in which arithmetic."""

    device: torch.device
    dtype: torch.dtype

    def place(self, values: Tensor) -> Tensor:
        """`values` there; four-dimensional ones with the channels innermost."""
        layout = torch.channels_last if values.ndim == 4 else torch.preserve_format
        return values.to(self.device, self.dtype, memory_format=layout)


@contextmanager
def exact_convolutions(device: torch.device) -> Iterator[None]:
    """Within it, float32 convolutions on a GPU are float32's, not TensorFloat32's, and of one order.

    What was captured as a graph within it stays so. The switches are put back as they were.
    """
    if device.type != "cuda":
        yield
        return
    with _SWITCHES, torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


class Snake:
    """Gives `alpha` times the activation: the next convolution's weights must have gone through `unscale`."""

    def __init__(self, read: ReadWeight, place: str, target: Target) -> None:
        alpha = read(f"{place}.alpha").double() + _SNAKE_EPSILON
        self._scale = target.place(alpha.reshape(1, -1, 1, 1))
        self.alpha = self._scale.flatten().double().cpu()

    def __call__(self, x: Tensor, beyond: Tensor | None = None) -> Tensor:
        """[batch, channels, 1, time] to the same shape; zero where the signal has ended."""
        y = add_squared_sine_(x * self._scale)
        return y if beyond is None else y.masked_fill_(beyond, 0.0)

    def unscale(self, weight: Tensor, *, dim: int) -> Tensor:
        """Weights, float64, for inputs `alpha` times as large; `dim` is that of the input channels."""
        shape = [-1 if other == dim else 1 for other in range(weight.ndim)]
        return weight.double() / self.alpha.reshape(shape)


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

    def __call__(self, x: Tensor, beyond: Tensor | None = None) -> Tensor:
        """[batch, in, 1, time] to [batch, out, 1, floor((time + 2 padding - reach - 1) / stride) + 1].

        `beyond` is for the Snake; without one, the signal must be clear there.
        """
        outputs = (x.shape[-1] + 2 * self._padding - self._reach - 1) // self._stride + 1
        cut = tiles(outputs, x)
        return join([self.part(x, start, size, beyond)[..., : outputs - start] for start, size in cut])

    def part(self, x: Tensor, start: int, size: int, beyond: Tensor | None = None) -> Tensor:
        """The outputs from `start` to `start + size`; the signal may end before."""
        first = start * self._stride - self._padding
        span = (size - 1) * self._stride + self._reach + 1
        inputs = _cut(x, first, span)
        if self._snake is not None:
            inputs = self._snake(inputs, None if beyond is None else _cut(beyond, first, span))
        steps = (1, self._stride), (0, 0), (1, self._dilation)
        if tuned(inputs) and packs(self.weight):
            # PyTorch would take other kernels for a lone short signal, which round otherwise.
            convolved: Tensor = torch.mkldnn_convolution(
                inputs, self.weight, self.bias, steps[1], steps[0], steps[2], 1
            )
            return convolved
        return F.conv2d(inputs, self.weight, self.bias, *steps)


class PointwiseConvolution:
    """A convolution of kernel 1: the same matrix at every time step. `weight` is [out, in, 1]."""

    def __init__(self, weight: Tensor, bias: Tensor, target: Target) -> None:
        self._product = Linear(target.place(weight.squeeze(2)))
        self._bias = target.place(bias)

    def __call__(self, x: Tensor) -> Tensor:
        """[batch, in, 1, time] to [batch, out, 1, time]."""
        batch, channels, _, time = x.shape
        y = self._product(x.permute(0, 2, 3, 1).reshape(-1, channels)).add_(self._bias)
        return y.view(batch, 1, time, -1).permute(0, 3, 1, 2)


class UpsamplingConvolution:
    """Snake, then a transposed convolution of kernel 2 * stride: the output is stride times as long.

    `weight` is [in, out, 2 * stride]. The output padding of stride % 2 is what the codec adds to the original
    network (Descript audio codec, arXiv:2306.06546), so that odd strides lose no samples. Computed as a plain
    convolution of kernel 2 that gives all `stride` samples between two inputs as channels: oneDNN prepares
    that for a new length fifteen times as fast as a transposed one.
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, target: Target, snake: Snake) -> None:
        inputs, self._channels, _ = weight.shape
        self._stride, self._excess = stride, -(-stride // 2)
        # Output sample r after input i is reached by tap r of input i and tap stride + r of input i - 1.
        taps = torch.stack((weight[:, :, stride:], weight[:, :, :stride]), dim=-1)
        phases = taps.permute(2, 1, 0, 3).reshape(-1, inputs, 2)
        self._conv = Convolution(phases, bias.repeat(stride), target, snake, padding=1)

    def __call__(self, x: Tensor, beyond: Tensor | None = None) -> Tensor:
        """[batch, in, 1, time] to [batch, out, 1, stride * time]."""
        batch, _, _, time = x.shape
        y = self._conv(x, beyond)
        samples = y.permute(0, 2, 3, 1).reshape(batch, 1, -1, self._channels)
        return samples.narrow(2, self._excess, time * self._stride).permute(0, 3, 1, 2)


class ResidualUnit:
    """x + conv2(snake2(conv1(snake1(x)))), as long as x; `place` is its name, `dilation` that of conv1."""

    def __init__(self, read: ReadWeight, place: str, dilation: int, target: Target) -> None:
        snake2 = Snake(read, f"{place}.snake2", target)
        self._conv1 = Convolution(
            read(f"{place}.conv1.weight") * snake2.alpha[:, None, None],
            read(f"{place}.conv1.bias") * snake2.alpha,
            target,
            Snake(read, f"{place}.snake1", target),
            padding=dilation * (RESIDUAL_KERNEL // 2),
            dilation=dilation,
        )
        weight = snake2.unscale(read(f"{place}.conv2.weight"), dim=1)
        self._conv2 = PointwiseConvolution(weight, read(f"{place}.conv2.bias"), target)

    def __call__(self, x: Tensor, beyond: Tensor | None = None) -> Tensor:
        """[batch, channels, 1, time] to the same shape."""
        time = x.shape[-1]
        parts = []
        for start, size in tiles(time, x):
            inner = self._conv1.part(x, start, size, beyond)
            change = self._conv2(add_squared_sine_(inner))[..., : time - start]
            parts.append(change.add_(x[..., start : start + size]))
        return join(parts)


def tiles(time: int, x: Tensor) -> list[tuple[int, int]]:
    """Cuts `time` steps that are computed from `x` into (start, size); the last may reach beyond the end.

    On a CPU there are few different sizes: oneDNN compiles and keeps a convolution for every length that it
    meets, with about a megabyte of tables per second of output. Whole signals of all lengths would fill
    gigabytes.
    """
    if time <= _SMALLEST_TILED or not tuned(x):
        return [(0, time)]
    largest = max(_SMALLEST_TILED, _TILE_VALUES // x.shape[1])
    starts = range(0, time, largest)
    step = largest // _SIZES
    rest = -(-(time - starts[-1]) // step) * step
    return [(start, largest) for start in starts[:-1]] + [(starts[-1], rest)]


def tuned(x: Tensor) -> bool:
    """Is this a CPU, where signals are cut and the sine is numpy's; a GPU gets the plain operations."""
    return x.device.type == "cpu"


def join(parts: list[Tensor]) -> Tensor:
    """One signal of the consecutive parts."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _cut(x: Tensor, start: int, size: int) -> Tensor:
    """x[..., start : start + size] with zeros beyond the edges."""
    time = x.shape[-1]
    piece = x[..., max(start, 0) : start + size]
    before, after = max(-start, 0), max(start + size - time, 0)
    if not before and not after:
        return piece
    return F.pad(piece.permute(0, 2, 3, 1), (0, 0, before, after)).permute(0, 3, 1, 2)


def residual_units(read: ReadWeight, place: str, target: Target) -> list[ResidualUnit]:
    """The three units of a block, of growing dilation."""
    return [
        ResidualUnit(read, f"{place}.res_unit{number}", dilation, target)
        for number, dilation in enumerate(RESIDUAL_DILATIONS, start=1)
    ]


def add_squared_sine_(u: Tensor) -> Tensor:
    """u + sin²(u), written into `u`."""
    sine = _sine(u)
    return u.addcmul_(sine, sine)


def _sine(u: Tensor) -> Tensor:
    """sin(u); numpy's float32 sine takes 0.4 of PyTorch's time on one core (0.37 against 0.95 ns a value)."""
    if not tuned(u) or u.dtype != torch.float32:
        return torch.sin(u)
    sine = torch.empty_like(u)
    # The channels innermost, as they lie in memory, so that numpy sees one contiguous run.
    np.sin(u.permute(0, 2, 3, 1).numpy(), out=sine.permute(0, 2, 3, 1).numpy())
    return sine

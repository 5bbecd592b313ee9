"""What the decoder's convolutions are made of: causal, so that nothing hangs on what comes after.

Signals are [batch, time, channels], as `higgs_audio_codec.convolution` lays them out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.layers.convolution import SNAKE_EPSILON
from stentor.models.higgs_audio_codec.convolution import (
    Convolution,
    PointwiseConvolution,
    ReadWeight,
    Target,
    join,
    phases,
    tiles,
)
from stentor.models.higgs_audio_codec.snake import sine
from stentor.models.qwen3_codec.config import KERNEL, RESIDUAL_DILATIONS
from stentor.models.weights import Weights

_NORM_EPS = 1e-6


class CausalConvolution(Convolution):
    """y[t] = bias + sum over k of weight[:, :, k] x[t - dilation (kernel - 1 - k)]; before x is silence."""

    def __init__(self, weight: Tensor, bias: Tensor, target: Target, dilation: int = 1) -> None:
        padding = dilation * (weight.shape[-1] - 1)
        super().__init__(weight, bias, target, padding=padding, dilation=dilation)

    def __call__(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """[batch, time, in] to [batch, time, out]."""
        time = x.shape[1]
        return join([self.part(x, start, size)[:, : time - start] for start, size in tiles(time, x)])


class SnakeBeta:
    """x + sin²(a x) / b, where a and b are the exponentials of two parameters of a channel."""

    def __init__(self, read: ReadWeight, place: str, target: Target) -> None:
        self._rate = target.place(read(f"{place}.alpha").exp())
        self._share = target.place((read(f"{place}.beta").exp() + SNAKE_EPSILON).reciprocal())

    def __call__(self, x: Tensor) -> Tensor:
        """[batch, time, channels] to the same shape."""
        return torch.addcmul(x, sine(x * self._rate).square_(), self._share)


class ResidualUnit:
    """x + conv2(snake2(conv1(snake1(x)))), as long as x."""

    def __init__(self, read: ReadWeight, place: str, dilation: int, target: Target) -> None:
        self._act1, self._act2 = (SnakeBeta(read, f"{place}.act{number}", target) for number in (1, 2))
        self._conv1 = convolution(read, f"{place}.conv1", target, dilation)
        self._conv2 = PointwiseConvolution(*pair(read, f"{place}.conv2.conv"), target)

    def __call__(self, x: Tensor) -> Tensor:
        """[batch, time, channels] to the same shape."""
        return self._conv2(self._act2(self._conv1(self._act1(x)))).add_(x)


class Block:
    """Snake, a transposed convolution to `rate` times the steps of half the channels, residual units."""

    def __init__(self, read: ReadWeight, place: str, rate: int, target: Target) -> None:
        self._snake = SnakeBeta(read, f"{place}.0", target)
        weight, bias = pair(read, f"{place}.1.conv")
        self._channels = weight.shape[1]
        self._conv = CausalConvolution(phases(weight), bias.repeat(rate), target)
        self._units = [
            ResidualUnit(read, f"{place}.{number}", dilation, target)
            for number, dilation in enumerate(RESIDUAL_DILATIONS, start=2)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """[batch, time, channels] to [batch, rate * time, channels / 2]."""
        x = self._conv(self._snake(x)).reshape(len(x), -1, self._channels)
        for unit in self._units:
            x = unit(x)
        return x


class Upsampling:
    """Each step becomes `ratio` steps by a matrix each, then a ConvNeXt block (arXiv:2201.03545)."""

    def __init__(self, read: ReadWeight, place: str, target: Target) -> None:
        weight, bias = pair(read, f"{place}.0.conv")
        self._size, ratio = weight.shape[1:]
        rows = weight.permute(2, 1, 0).reshape(-1, len(weight), 1)
        self._spread = PointwiseConvolution(rows, bias.repeat(ratio), target)
        self._depthwise = [target.place(values) for values in pair(read, f"{place}.1.dwconv.conv")]
        self._norm = [target.place(values) for values in pair(read, f"{place}.1.norm")]
        weight, bias = pair(read, f"{place}.1.pwconv1")
        self._widen = PointwiseConvolution(weight[..., None], bias, target)
        weight, bias = pair(read, f"{place}.1.pwconv2")
        gamma = read(f"{place}.1.gamma")
        self._narrow = PointwiseConvolution((gamma[:, None] * weight)[..., None], gamma * bias, target)

    def __call__(self, x: Tensor) -> Tensor:
        """[batch, time, channels] to [batch, ratio * time, channels]."""
        x = self._spread(x).reshape(len(x), -1, self._size)
        weight, bias = self._depthwise
        inner = F.conv1d(F.pad(x.transpose(1, 2), (KERNEL - 1, 0)), weight, bias, groups=self._size)
        weight, bias = self._norm
        inner = F.layer_norm(inner.transpose(1, 2), (self._size,), weight, bias, _NORM_EPS)
        return self._narrow(F.gelu(self._widen(inner))).add_(x)


def convolution(read: ReadWeight, place: str, target: Target, dilation: int = 1) -> CausalConvolution:
    """The one of that name."""
    return CausalConvolution(*pair(read, f"{place}.conv"), target, dilation)


def reader(source: Weights) -> ReadWeight:
    """Gives the codec's tensors by their names in its file, float32 on the CPU."""
    return lambda name: source.tensor(name).to("cpu", torch.float32)


def pair(read: ReadWeight, place: str) -> tuple[Tensor, Tensor]:
    """A weight and its bias."""
    return read(f"{place}.weight"), read(f"{place}.bias")

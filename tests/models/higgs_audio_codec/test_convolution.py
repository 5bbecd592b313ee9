import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.models.higgs_audio_codec.convolution import (
    Convolution,
    PointwiseConvolution,
    ResidualUnit,
    Target,
    UpsamplingConvolution,
    tiles,
)
from stentor.models.higgs_audio_codec.snake import Snake

FLOAT32 = Target(torch.device("cpu"), torch.float32)
# One tile; several of them, the last one cut; and the largest that is not cut.
TIMES = (1, 37, 1024, 1025, 40_000)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def signal(channels: int, time: int, batch: int = 2) -> Tensor:
    return random(batch, time, channels, seed=3)


def same(actual: Tensor, expected: Tensor) -> None:
    """Of a signal and one as PyTorch has it, [batch, channels, time]."""
    torch.testing.assert_close(actual.transpose(1, 2), expected, rtol=1e-5, atol=1e-5)


def snake_by_definition(x: Tensor, alpha: Tensor) -> Tensor:
    return x + (alpha + 1e-9).reciprocal() * torch.sin(alpha * x).square()


@pytest.mark.parametrize("time", TIMES[1:])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 3, 1), (1, 27, 9), (5, 3, 1), (2, 1, 1)])
def test_tiles_change_nothing(time: int, stride: int, padding: int, dilation: int) -> None:
    weight, bias, x = random(6, 16, 7) / 10, random(6), signal(16, time)
    convolve = Convolution(weight, bias, FLOAT32, stride=stride, padding=padding, dilation=dilation)
    same(convolve(x), F.conv1d(x.transpose(1, 2), weight, bias, stride, padding, dilation))


@pytest.mark.parametrize("time", TIMES)
def test_snake_folds_into_the_convolution_after_it(time: int) -> None:
    alpha, weight, bias, x = random(1, 16, 1).abs() + 0.1, random(4, 16, 7) / 10, random(4), signal(16, time)
    snake = Snake(alpha, FLOAT32.place)
    convolve = Convolution(weight, bias, FLOAT32, snake, padding=3)
    same(convolve(x), F.conv1d(snake_by_definition(x.transpose(1, 2), alpha), weight, bias, padding=3))


@pytest.mark.parametrize("time", [1, 2, 5, 64, 65, 2000])
@pytest.mark.parametrize("stride", [2, 3, 4, 5, 8])
def test_upsampling_is_a_transposed_convolution(stride: int, time: int) -> None:
    alpha, weight, bias, x = torch.ones(1, 16, 1), random(16, 8, 2 * stride) / 8, random(8), signal(16, time)
    snake = Snake(alpha, FLOAT32.place)
    upsample = UpsamplingConvolution(weight, bias, stride, FLOAT32, snake)
    activated = snake_by_definition(x.transpose(1, 2), alpha)
    expected = F.conv_transpose1d(activated, weight, bias, stride, math.ceil(stride / 2), stride % 2)
    assert expected.shape[-1] == stride * time
    same(upsample(x), expected)


@pytest.mark.parametrize("time", [*TIMES, 320, 330])
def test_a_pointwise_convolution_is_one_matrix_for_all_times(time: int) -> None:
    weight, bias, x = random(5, 16, 1), random(5), signal(16, time)
    same(PointwiseConvolution(weight, bias, FLOAT32)(x), F.conv1d(x.transpose(1, 2), weight, bias))


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("dilation", [1, 3, 9])
def test_a_residual_unit_keeps_its_definition(time: int, dilation: int) -> None:
    parameters = {
        "unit.snake1.alpha": random(1, 8, 1, seed=1).exp(),
        "unit.snake2.alpha": random(1, 8, 1, seed=2).exp(),
        "unit.conv1.weight": random(8, 8, 7) / 8,
        "unit.conv1.bias": random(8),
        "unit.conv2.weight": random(8, 8, 1) / 3,
        "unit.conv2.bias": random(8),
    }
    x = signal(8, time)
    y = snake_by_definition(x.transpose(1, 2), parameters["unit.snake1.alpha"])
    y = F.conv1d(y, parameters["unit.conv1.weight"], parameters["unit.conv1.bias"], 1, 3 * dilation, dilation)
    y = snake_by_definition(y, parameters["unit.snake2.alpha"])
    y = F.conv1d(y, parameters["unit.conv2.weight"], parameters["unit.conv2.bias"])
    unit = ResidualUnit(parameters.__getitem__, "unit", dilation, FLOAT32)
    before = x.clone()
    same(unit(x), x.transpose(1, 2) + y)
    assert torch.equal(x, before)


@pytest.mark.parametrize("channels", [8, 32, 512])
def test_tiles_cover_the_time_in_few_sizes(channels: int) -> None:
    x = torch.empty(1, 1, channels)
    sizes = set()
    for time in range(1025, 200_000, 997):
        cut = tiles(time, x)
        assert [start for start, _ in cut] == [0, *(start + size for start, size in cut)][:-1]
        assert time <= sum(size for _, size in cut) < time + max(1024, (1 << 17) // channels) / 8
        sizes |= {size for _, size in cut}
    assert len(sizes) <= 8

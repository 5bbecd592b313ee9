"""The reference of all convolutions says what PyTorch's own say, and a signal ends where it ends."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.layers.convolution import Filter, Signal, convolve


def snake_by_definition(x: Tensor, alpha: Tensor) -> Tensor:
    return x + torch.sin(alpha * x).square() / (alpha + 1e-9)


@pytest.mark.parametrize("dilation", [1, 3, 9])
@pytest.mark.parametrize("taps", [1, 7])
def test_a_filter_is_a_convolution_that_keeps_the_length_then_snake(taps: int, dilation: int) -> None:
    x, weight, bias, alpha = torch.randn(2, 50, 6), torch.randn(5, 6, taps), torch.randn(5), torch.rand(5)
    found = convolve(Filter(weight, bias, alpha, dilation, keeps_plain=True), Signal(None, x))
    expected = F.conv1d(x.mT, weight, bias, padding=dilation * (taps // 2), dilation=dilation).mT
    assert found.plain is not None
    torch.testing.assert_close(found.plain, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.active, snake_by_definition(expected, alpha), rtol=1e-5, atol=1e-5)
    assert convolve(Filter(weight, bias, alpha, dilation), Signal(None, x)).plain is None


@pytest.mark.parametrize("stride", [2, 3, 5, 8])
def test_two_taps_and_a_stride_are_a_transposed_convolution(stride: int) -> None:
    x, transposed, bias = torch.randn(2, 9, 6), torch.randn(6, 4, 2 * stride), torch.randn(4)
    taps = torch.stack((transposed[:, :, stride:], transposed[:, :, :stride]), dim=-1)
    filter = Filter(taps.permute(2, 1, 0, 3).reshape(-1, 6, 2), bias.repeat(stride), stride=stride)
    found = convolve(filter, Signal(None, x, torch.tensor([2, 3]), frame_steps=3))
    x[0, 6:] = 0.0
    expected = F.conv_transpose1d(x.mT, transposed, bias, stride, math.ceil(stride / 2), stride % 2).mT
    torch.testing.assert_close(found.active, expected, rtol=1e-5, atol=1e-5)
    assert found.frame_steps == 3 * stride


def test_nobody_looks_behind_the_end_of_a_signal() -> None:
    x, filter = torch.randn(2, 40, 6), Filter(torch.randn(6, 6, 7), torch.randn(6), torch.rand(6), 3)
    lengths, residual = torch.tensor([7, 20], dtype=torch.int16), torch.randn(2, 40, 6)
    whole = convolve(filter, Signal(residual, x, lengths, 2)).active
    x[0, 14:] = torch.nan
    again = convolve(filter, Signal(residual, x, lengths, 2)).active
    assert torch.equal(again[0, :14], whole[0, :14])
    alone = convolve(filter, Signal(residual[:1, :14], x[:1, :14])).active
    torch.testing.assert_close(alone, whole[:1, :14])


def test_in_16_bits_a_filter_is_close_and_what_has_no_snake_is_float32() -> None:
    x, weight = torch.randn(2, 40, 8), torch.randn(3, 8, 7) / 7
    exact = convolve(Filter(weight, torch.zeros(3)), Signal(None, x)).active
    for dtype, bound in ((torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        rough = Filter(weight.to(dtype), torch.zeros(3))
        found = convolve(rough, Signal(None, x.to(dtype))).active
        assert found.dtype == torch.float32
        assert 0 < (found - exact).norm() <= bound * exact.norm()


def test_the_parts_of_a_weight_make_it_up_and_the_first_is_the_nearest_of_10_bits() -> None:
    weight = torch.randn(5, 6, 7).exp()
    exact, rounded = Filter(weight, torch.zeros(5)), Filter(weight, torch.zeros(5), rounds_float32=True)
    parts = exact.split(weight)
    assert (exact.parts, rounded.parts, parts.shape) == (2, 1, (5, 2, 6, 7))
    assert torch.equal(parts.sum(dim=1), weight)
    assert torch.equal(parts[:, :1], rounded.split(weight))
    assert ((parts[:, 1] / weight).abs() <= 2**-11).all()
    half = Filter(weight.half(), torch.zeros(5))
    assert torch.equal(half.split(weight.half())[:, 0], weight.half())

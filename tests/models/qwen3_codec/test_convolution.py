import torch
import torch.nn.functional as F

from stentor.models.higgs_audio_codec.convolution import ReadWeight, Target
from stentor.models.qwen3_codec.convolution import Block, CausalConvolution, SnakeBeta, convolution

TARGET = Target(torch.device("cpu"), torch.float32)


def test_a_convolution_looks_back_only_however_it_is_cut() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(5, 3, 7, generator=generator), torch.randn(5, generator=generator)
    # Long enough for several tiles.
    x = torch.randn(2, 50_000, 3, generator=generator)
    expected = F.conv1d(F.pad(x.mT, (18, 0)), weight, bias, dilation=3).mT
    torch.testing.assert_close(CausalConvolution(weight, bias, TARGET, dilation=3)(x), expected)


def test_a_snake_has_two_parameters(read: ReadWeight) -> None:
    place, x = "decoder.decoder.1.block.0", torch.linspace(-5, 5, 320).view(1, 10, 32)
    alpha, beta = read(f"{place}.alpha").exp(), read(f"{place}.beta").exp()
    torch.testing.assert_close(SnakeBeta(read, place, TARGET)(x), x + (x * alpha).sin() ** 2 / beta)


def test_a_block_is_as_many_times_as_long_as_its_rate(read: ReadWeight) -> None:
    x = convolution(read, "decoder.decoder.0", TARGET)(torch.ones(1, 9, 24))
    assert Block(read, "decoder.decoder.1.block", 8, TARGET)(x).shape == (1, 72, 16)

"""The codec's decoder on a CPU: codes to waveform, with the quantizers folded into lookup tables."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.convolution import (
    Convolution,
    ReadWeight,
    Target,
    UpsamplingConvolution,
    residual_units,
)
from stentor.models.higgs_audio_codec.snake import Snake


class Decoder:
    """Tables, then the acoustic decoder: a Descript audio decoder (arXiv:2306.06546) without its final tanh.

    Not causal: a frame's samples depend on `CodecConfig.context_frames` frames on either side.
    """

    def __init__(self, read: ReadWeight, config: CodecConfig, target: Target) -> None:
        self._target = target
        table = fold_quantizers(read, config)
        self._table = table.reshape(-1, table.shape[-1]).to(target.device)
        self._first_rows = config.codebook_size * torch.arange(config.num_codebooks, device=target.device)
        place = "acoustic_decoder"
        self._conv1 = _edge(read(f"{place}.conv1.weight"), read(f"{place}.conv1.bias"), target)
        self._blocks = [
            _Block(read, f"{place}.block.{number}", stride, target)
            for number, stride in enumerate(config.acoustic.upsampling_ratios)
        ]
        snake = Snake(read(f"{place}.snake1.alpha"), target.place)
        self._conv2 = _edge(read(f"{place}.conv2.weight"), read(f"{place}.conv2.bias"), target, snake)

    @torch.inference_mode()
    def __call__(self, codes: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Integers [batch, frames, codebooks], all below the codebook size, to float32 [batch, samples].

        With `lengths` [batch], a row is decoded as if nothing stood behind so many of its frames; what comes
        out behind them means nothing. The samples may exceed 1 in magnitude.
        """
        batch, frames, codebooks = codes.shape
        rows = (codes.to(self._target.device) + self._first_rows).reshape(-1, codebooks)
        latents = F.embedding_bag(rows, self._table, mode="sum").to(self._target.dtype)
        x = latents.reshape(batch, frames, -1)
        if lengths is not None:
            lengths = lengths.int()
            x = x.masked_fill(torch.arange(frames, device=x.device)[:, None] >= lengths[:, None, None], 0.0)
        x = self._conv1(x)
        for block in self._blocks:
            x, lengths = block(x, lengths)
        return self._conv2(x, lengths).reshape(batch, -1).float()


class _Block:
    """Snake, upsampling by `stride` to half as many channels, three residual units."""

    def __init__(self, read: ReadWeight, place: str, stride: int, target: Target) -> None:
        weight, bias = read(f"{place}.conv_t1.weight"), read(f"{place}.conv_t1.bias")
        snake = Snake(read(f"{place}.snake1.alpha"), target.place)
        self._stride = stride
        self._upsample = UpsamplingConvolution(weight, bias, stride, target, snake)
        self._units = residual_units(read, place, target)

    def __call__(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x = self._upsample(x, lengths)
        lengths = None if lengths is None else lengths * self._stride
        for unit in self._units:
            x = unit(x, lengths)
        return x, lengths


def fold_quantizers(read: ReadWeight, config: CodecConfig) -> Tensor:
    """What each code adds to the decoder's input, float32 [codebooks, codebook size, acoustic hidden size].

    Everything before the decoder is linear in each code: it sums over the codebooks q
    project_out_q(embed_q[code_q]) and applies fc2. The constant terms are in the first codebook's entries.
    """
    fc2 = read("fc2.weight").double()
    constant = read("fc2.bias").double()
    tables = []
    for level in range(config.num_codebooks):
        place = f"quantizer.quantizers.{level}"
        tables.append(
            read(f"{place}.codebook.embed").double() @ (fc2 @ read(f"{place}.project_out.weight").double()).T
        )
        constant += fc2 @ read(f"{place}.project_out.bias").double()
    tables[0] += constant
    return torch.stack(tables).float()


def _edge(weight: Tensor, bias: Tensor, target: Target, snake: Snake | None = None) -> Convolution:
    """A convolution that keeps the length."""
    return Convolution(weight, bias, target, snake, padding=weight.shape[-1] // 2)

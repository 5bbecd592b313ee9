"""The codec's encoder: reference recordings to codes."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.models.higgs_audio.encoding import within_memory
from stentor.models.higgs_audio_codec.config import AcousticConfig, CodecConfig
from stentor.models.higgs_audio_codec.convolution import (
    Convolution,
    ReadWeight,
    Target,
    residual_units,
)
from stentor.models.higgs_audio_codec.semantic import SemanticEncoder
from stentor.models.higgs_audio_codec.snake import Snake
from stentor.request import Array

# cuDNN's switches are the process's: whoever changes them for a while does so alone.
_SWITCHES = threading.RLock()


@contextmanager
def exact_convolutions(device: torch.device) -> Iterator[None]:
    """Within it, convolutions on a GPU are of one order, and float32's, not TensorFloat32's.

    The switches are put back as they were.
    """
    if device.type != "cuda":
        yield
        return
    with _SWITCHES, torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


class CodecEncoder:
    """Acoustic and semantic latents, fused and quantised residually; in float32, for near ties decide.

    HuBERT comes from transformers, which is imported here and nowhere earlier.
    """

    def __init__(self, read: ReadWeight, config: CodecConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._acoustic = _AcousticEncoder(read, config.acoustic, Target(device, torch.float32))
        self._semantic = SemanticEncoder(read, config, device)
        self._fc = _affine(read, "fc", device)
        self._levels = [
            _Quantizer(read, f"quantizer.quantizers.{level}", device) for level in range(config.num_codebooks)
        ]

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[Array]) -> list[Array]:
        """Mono float32 [samples] at the codec's rate to uint16 [frames, codebooks] each.

        Clips are lengthened by silence to whole frames, and to one second; all of one call to the same length
        (`CodecConfig.padded_length`). Not to each other's: a clip's codes depend on all of it, padding
        included. If memory runs out they are encoded one by one. Raises OverloadedError if one finds none.
        """
        return within_memory(self._encode, waveforms, self._config.sample_rate_hz)

    def _encode(self, waveforms: Sequence[Array]) -> list[Array]:
        lengths = {self._config.padded_length(len(waveform)) for waveform in waveforms}
        assert len(lengths) == 1, "clips of one batch must be of one padded length"
        padded = np.zeros((len(waveforms), lengths.pop()), np.float32)
        for row, waveform in zip(padded, waveforms, strict=True):
            row[: len(waveform)] = waveform
        batch = torch.from_numpy(padded).to(self._device)
        with exact_convolutions(self._device):
            latents = torch.cat((self._acoustic(batch), self._semantic(batch)), dim=1).transpose(1, 2)
        residual = F.linear(latents, *self._fc)
        codes = []
        for level in self._levels:
            code, residual = level(residual)
            codes.append(code)
        return list(torch.stack(codes, dim=-1).cpu().numpy().astype(np.uint16))


class _AcousticEncoder:
    """A Descript audio encoder (arXiv:2306.06546)."""

    def __init__(self, read: ReadWeight, config: AcousticConfig, target: Target) -> None:
        place = "acoustic_encoder"
        weight = read(f"{place}.conv1.weight")
        self._conv1 = Convolution(weight, read(f"{place}.conv1.bias"), target, padding=weight.shape[-1] // 2)
        self._blocks = [
            _Block(read, f"{place}.block.{number}", stride, target)
            for number, stride in enumerate(config.downsampling_ratios)
        ]
        weight, snake = read(f"{place}.conv2.weight"), Snake(read(f"{place}.snake1.alpha"), target.place)
        bias = read(f"{place}.conv2.bias")
        self._conv2 = Convolution(weight, bias, target, snake, padding=weight.shape[-1] // 2)

    def __call__(self, waveforms: Tensor) -> Tensor:
        """[batch, samples] to [batch, acoustic hidden size, frames]."""
        x = self._conv1(waveforms[..., None])
        for block in self._blocks:
            x = block(x)
        return self._conv2(x).transpose(1, 2)


class _Block:
    """Three residual units, Snake, downsampling by `stride` to twice as many channels."""

    def __init__(self, read: ReadWeight, place: str, stride: int, target: Target) -> None:
        self._units = residual_units(read, place, target)
        weight, bias = read(f"{place}.conv1.weight"), read(f"{place}.conv1.bias")
        snake = Snake(read(f"{place}.snake1.alpha"), target.place)
        self._downsample = Convolution(weight, bias, target, snake, stride=stride, padding=-(-stride // 2))

    def __call__(self, x: Tensor) -> Tensor:
        for unit in self._units:
            x = unit(x)
        return self._downsample(x)


class _Quantizer:
    """One level: the nearest entry of a codebook, and what it leaves for the next level."""

    def __init__(self, read: ReadWeight, place: str, device: torch.device) -> None:
        self._entries = read(f"{place}.codebook.embed").to(device)
        self._project_in = _affine(read, f"{place}.project_in", device)
        self._project_out = _affine(read, f"{place}.project_out", device)

    def __call__(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, frames, hidden size] to codes [batch, frames] and the new residual."""
        projected = F.linear(residual, *self._project_in)
        distances = self._entries.square().sum(dim=1) - 2 * projected @ self._entries.T
        codes = distances.argmin(dim=-1)
        return codes, residual - F.linear(self._entries[codes], *self._project_out)


def _affine(read: ReadWeight, place: str, device: torch.device) -> tuple[Tensor, Tensor]:
    return read(f"{place}.weight").to(device), read(f"{place}.bias").to(device)

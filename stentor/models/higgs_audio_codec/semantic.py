"""The encoder's semantic branch: what is said in a waveform, from HuBERT's states (arXiv:2106.07447)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.convolution import ReadWeight

# HuBERT reads 400 samples for a step of 320; this makes one step of every whole 320.
_EDGE_SAMPLES = 160
# Zero crossings of the resampling kernel on either side, and its cut-off below the lower Nyquist frequency.
_RESAMPLING_WIDTH = 6
_RESAMPLING_ROLLOFF = 0.99


class SemanticEncoder:
    """Latents of the whole clip: each depends on all of it, and on any padding."""

    def __init__(self, read: ReadWeight, config: CodecConfig, device: torch.device) -> None:
        self._config = config
        self._hubert = _build_hubert(read, config, device)
        self._kernel = resampling_kernel(config.sample_rate_hz, config.semantic_rate_hz).to(device)
        self._conv = read("encoder_semantic.conv.weight").to(device)
        self._blocks = [
            _ConvBlock(read, f"encoder_semantic.conv_blocks.{number}", config.semantic_dilations, device)
            for number in range(config.num_semantic_blocks)
        ]

    def __call__(self, waveforms: Tensor) -> Tensor:
        """float32 [batch, samples], whole frames, to [batch, semantic hidden size, frames]."""
        config = self._config
        resampled = resample(waveforms, self._kernel, config.sample_rate_hz, config.semantic_rate_hz)
        padded = F.pad(resampled, (_EDGE_SAMPLES, _EDGE_SAMPLES))
        states = self._hubert(padded, output_hidden_states=True).hidden_states
        mean = torch.stack(states).mean(dim=0)[:, :: config.semantic_steps_per_frame]
        x = F.conv1d(mean.transpose(1, 2), self._conv, padding=config.semantic_kernel // 2)
        for block in self._blocks:
            x = block(x)
        return x


class _ConvBlock:
    """Residual units of ELU, convolution, ELU, 1x1 convolution, all without biases; then a convolution."""

    def __init__(
        self, read: ReadWeight, place: str, dilations: tuple[int, ...], device: torch.device
    ) -> None:
        self._units = [
            (
                read(f"{place}.res_units.{unit}.conv1.weight").to(device),
                read(f"{place}.res_units.{unit}.conv2.weight").to(device),
                dilation,
            )
            for unit, dilation in enumerate(dilations)
        ]
        self._weight = read(f"{place}.conv.weight").to(device)
        self._bias = read(f"{place}.conv.bias").to(device)

    def __call__(self, x: Tensor) -> Tensor:
        for first, second, dilation in self._units:
            padding = first.shape[-1] // 2 * dilation
            hidden = F.conv1d(F.elu(x), first, padding=padding, dilation=dilation)
            x = x + F.conv1d(F.elu(hidden), second)
        return F.conv1d(x, self._weight, self._bias, padding=1)


def _build_hubert(read: ReadWeight, config: CodecConfig, device: torch.device) -> Any:
    # Its import takes seconds, and only a reference to encode needs it.
    from transformers import HubertConfig, HubertModel

    never_masked = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    with torch.device("meta"):
        model = HubertModel(HubertConfig(**{**config.semantic.values, **never_masked}))
    torch.nn.utils.parametrize.remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
    state = {name: read(f"semantic_model.{name}").to(device) for name in model.state_dict()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def resample(waveforms: Tensor, kernel: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """float32 [batch, samples] to [batch, ceil(samples * to_hz / from_hz)]."""
    stride, phases = _reduced(from_hz, to_hz)
    samples = waveforms.shape[-1]
    width = (kernel.shape[-1] - stride) // 2
    padded = F.pad(waveforms, (width, width + stride)).unsqueeze(1)
    resampled = F.conv1d(padded, kernel, stride=stride).transpose(1, 2).reshape(len(waveforms), -1)
    return resampled[:, : math.ceil(samples * phases / stride)]


def resampling_kernel(from_hz: int, to_hz: int) -> Tensor:
    """Windowed-sinc filters, float32 [phases, 1, taps]: torchaudio's default, which the codec expects.

    With rates reduced to o and n, base = 0.99 min(o, n), width W = ceil(6 o / base): phase i has at the taps
    j in -W .. W + o - 1 the value sinc(t) cos²(pi t / 12) base / o, t = clip((j / o - i / n) base, -6, 6).
    """
    source, phases = _reduced(from_hz, to_hz)
    base = _RESAMPLING_ROLLOFF * min(source, phases)
    width = math.ceil(_RESAMPLING_WIDTH * source / base)
    taps = torch.arange(-width, width + source, dtype=torch.float64) / source
    shifts = torch.arange(phases, dtype=torch.float64)[:, None] / phases
    t = ((taps - shifts) * base).clamp(-_RESAMPLING_WIDTH, _RESAMPLING_WIDTH)
    window = torch.cos(torch.pi * t / (2 * _RESAMPLING_WIDTH)).square()
    return (torch.sinc(t) * window * base / source).float().unsqueeze(1)


def _reduced(from_hz: int, to_hz: int) -> tuple[int, int]:
    divisor = math.gcd(from_hz, to_hz)
    return from_hz // divisor, to_hz // divisor

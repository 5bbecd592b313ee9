"""The speaker encoder of Base checkpoints: who speaks in a recording, as one vector (arXiv:2005.07143)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.models.higgs_audio.encoding import forgetful, within_memory
from stentor.models.higgs_audio_codec.encoder import exact_convolutions
from stentor.models.qwen3_codec.speaker_config import SAMPLE_RATE_HZ, SpeakerConfig
from stentor.request import Array

_WINDOW, _HOP = 1024, 256
# No magnitude, and no band of a spectrum, is less.
_LEAST_POWER, _LEAST_BAND = 1e-9, 1e-5
_LEAST_VARIANCE = 1e-12


class SpeakerEncoder:
    """ECAPA-TDNN over a mel spectrogram, in float32; `read` gives a tensor by its name within."""

    def __init__(self, read: Callable[[str], Tensor], config: SpeakerConfig, device: torch.device) -> None:
        # Its import takes a while, and only a reference needs it.
        from transformers.audio_utils import mel_filter_bank

        self._config = config
        self._weights = {name: read(name).to(device, torch.float32) for name in config.shapes()}
        bands = (_WINDOW // 2 + 1, config.mels, 0, SAMPLE_RATE_HZ / 2, SAMPLE_RATE_HZ)
        filters = torch.from_numpy(mel_filter_bank(*bands, norm="slaney", mel_scale="slaney"))
        self._filters = filters.T.to(device, torch.float32)

    def __call__(self, waveform: Array) -> Array:
        """Mono float32 [samples] at 24 kHz, 80 ms of them at least, to float32 [size].

        Raises OverloadedError if there is no memory for it.
        """
        return within_memory(self._told, [waveform], SAMPLE_RATE_HZ)[0]

    @torch.inference_mode()
    def _told(self, waveforms: Sequence[Array]) -> list[Array]:
        device = self._filters.device
        with exact_convolutions(device), forgetful(device):
            heard = [self._hear(torch.tensor(waveform, device=device)) for waveform in waveforms]
        return [voice.cpu().numpy() for voice in heard]

    def _hear(self, waveform: Tensor) -> Tensor:
        first, *dilations, last = self._config.dilations
        x = self._convolve("blocks.0.conv", self._spectrum(waveform)[None], first).relu()
        said = []
        for number, dilation in enumerate(dilations, 1):
            x = self._block(f"blocks.{number}", x, dilation)
            said.append(x)
        x = self._convolve("mfa.conv", torch.cat(said, dim=1), last).relu()
        # What counts is weighed by the clip's own mean and spread.
        whole = torch.cat((x, *(part.expand_as(x) for part in _statistics(x, 1 / x.shape[-1]))), dim=1)
        weights = self._convolve("asp.conv", self._convolve("asp.tdnn.conv", whole).relu().tanh())
        pooled = torch.cat(_statistics(x, weights.softmax(dim=-1)), dim=1)
        return self._convolve("fc", pooled)[0, :, 0]

    def _block(self, place: str, x: Tensor, dilation: int) -> Tensor:
        groups = list(self._convolve(f"{place}.tdnn1.conv", x).relu().chunk(self._config.scale, dim=1))
        for step in range(len(groups) - 1):
            group = groups[step + 1] + groups[step] if step else groups[1]
            groups[step + 1] = self._convolve(
                f"{place}.res2net_block.blocks.{step}.conv", group, dilation
            ).relu()
        y = self._convolve(f"{place}.tdnn2.conv", torch.cat(groups, dim=1)).relu()
        squeezed = self._convolve(f"{place}.se_block.conv1", y.mean(dim=-1, keepdim=True)).relu()
        return x + y * self._convolve(f"{place}.se_block.conv2", squeezed).sigmoid()

    def _convolve(self, name: str, x: Tensor, dilation: int = 1) -> Tensor:
        """[batch, in, time] to [batch, out, time]; beyond its edges the signal is mirrored."""
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        reach = dilation * (weight.shape[-1] - 1)
        padded = F.pad(x, (reach // 2, reach - reach // 2), mode="reflect") if reach else x
        return F.conv1d(padded, weight, bias, dilation=dilation)

    def _spectrum(self, waveform: Tensor) -> Tensor:
        """Logarithms of mel bands, [mels, frames], from samples [samples]."""
        edge = (_WINDOW - _HOP) // 2
        padded = F.pad(waveform[None], (edge, edge), mode="reflect")[0]
        window = torch.hann_window(_WINDOW, device=waveform.device)
        waves = torch.stft(padded, _WINDOW, _HOP, window=window, center=False, return_complex=True)
        magnitudes = (torch.view_as_real(waves).square().sum(dim=-1) + _LEAST_POWER).sqrt()
        return (self._filters @ magnitudes).clamp_min(_LEAST_BAND).log()


def _statistics(x: Tensor, weights: Tensor | float) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation over time, [batch, channels, 1]."""
    mean = (x * weights).sum(dim=-1, keepdim=True)
    variance = ((x - mean).square() * weights).sum(dim=-1, keepdim=True)
    return mean, variance.clamp_min(_LEAST_VARIANCE).sqrt()

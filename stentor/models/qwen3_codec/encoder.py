"""The codec's encoder: reference recordings to codes, by Mimi's encoder (arXiv:2410.00037)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stentor.models.higgs_audio.encoding import forgetful, within_memory
from stentor.models.higgs_audio_codec.convolution import ReadWeight
from stentor.models.higgs_audio_codec.encoder import exact_convolutions
from stentor.models.qwen3_codec.config import QwenCodecConfig
from stentor.request import Array

# What transformers calls now what it called otherwise when the checkpoints were written.
_RENAMED = {
    "encoder.encoder_seanet.": "encoder.",
    "encoder.encoder_transformer.": "encoder_transformer.",
    "encoder.downsample.": "downsample.",
}
# As the reference implementation: its transformers let a frame see all before it, whatever the configuration
# says; later ones do not.
_WINDOW = 1 << 30


class QwenEncoder:
    """Mimi in float32, for near ties decide; transformers, where it comes from, is imported here only.

    `read` gives tensors by their names in the codec's file.
    """

    def __init__(self, read: ReadWeight, config: QwenCodecConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._mimi = _build_mimi(read, config, device)

    def encode(self, waveforms: Sequence[Array]) -> list[Array]:
        """Mono float32 [samples] at the codec's rate to uint16 [frames, codebooks] each.

        All of one call are of one length; a part of a frame at their end is a frame. If memory runs out they
        are encoded one by one. Raises OverloadedError if one finds none.
        """
        return within_memory(self._encode, waveforms, self._config.sample_rate_hz)

    @torch.inference_mode()
    def _encode(self, waveforms: Sequence[Array]) -> list[Array]:
        batch = torch.from_numpy(np.stack(waveforms)[:, None]).to(self._device, torch.float32)
        with exact_convolutions(self._device), forgetful(self._device):
            codes = self._mimi.encode(batch, num_quantizers=self._config.num_codebooks).audio_codes
        return list(codes.transpose(1, 2).cpu().numpy().astype(np.uint16))


def _build_mimi(read: ReadWeight, config: QwenCodecConfig, device: torch.device) -> Any:
    # Its import takes seconds, and only a reference to encode needs it.
    from transformers import MimiConfig, MimiModel

    values = {**config.encoder.values, "sliding_window": _WINDOW, "decoder_config": None}
    model = MimiModel(MimiConfig(**values))
    model.load_state_dict({name: read(_stored(name)) for name in model.state_dict()}, assign=True)
    return model.to(device).eval()


def _stored(name: str) -> str:
    """What a checkpoint calls a parameter of the model."""
    renamed = (old + name.removeprefix(new) for new, old in _RENAMED.items() if name.startswith(new))
    return f"encoder.{next(renamed, name)}"

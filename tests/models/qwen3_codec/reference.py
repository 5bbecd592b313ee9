"""The codec as transformers has its parts, and plain sums for what it has not."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.models.higgs_audio_codec.convolution import ReadWeight


def mimi(values: dict[str, Any], **changes: Any) -> Any:
    """Mimi's encoder."""
    from transformers import MimiConfig, MimiModel

    return MimiModel(MimiConfig(**{**values, "decoder_config": None, **changes})).eval()


def stored(name: str) -> str:
    """What a checkpoint calls a parameter of Mimi's."""
    for now, then in (
        ("encoder_seanet", "encoder"),
        ("encoder_t", "encoder_t"),
        ("downsample", "downsample"),
    ):
        name = name.replace(f"encoder.{now}", then)
    return f"encoder.{name}"


def transformer(values: dict[str, Any]) -> Any:
    """The decoder's transformer: that of Qwen3-Omni's vocoder."""
    from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as omni

    return omni.Qwen3OmniMoeCode2WavTransformerModel(_config(values)).eval()


def code2wav(values: dict[str, Any]) -> Any:
    """Qwen3-Omni's vocoder, for what comes behind the transformer."""
    from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as omni

    vocoder = omni.Qwen3OmniMoeCode2Wav(_config({**values, "hidden_size": values["latent_dim"]})).eval()
    for module in vocoder.modules():
        if isinstance(module, omni.Qwen3OmniMoeCausalTransConvNet):
            module.left_pad = 0  # Qwen3-Omni cuts the beginning too, and so loses its frame's place.
    return vocoder


def _config(values: dict[str, Any]) -> Any:
    from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeCode2WavConfig

    return Qwen3OmniMoeCode2WavConfig(**values)


@torch.no_grad()
def decode(read: ReadWeight, values: dict[str, Any], codes: Tensor) -> Tensor:
    """All frames [frames, codebooks] at once, to [samples]."""

    def load(module: Any, prefix: str) -> Any:
        wanted = module.state_dict()
        parts = {name: read(prefix + name) for name in wanted if not name.startswith(_UNUSED)}
        assert not module.load_state_dict(parts, strict=False).unexpected_keys
        return module

    hidden = torch.zeros(())
    for level, place in [(0, "rvq_first"), *((level, "rvq_rest") for level in range(1, codes.shape[1]))]:
        book = f"decoder.quantizer.{place}.vq.layers.{max(0, level - 1)}._codebook"
        entries = read(f"{book}.embedding_sum") / read(f"{book}.cluster_usage")[:, None]
        out = read(f"decoder.quantizer.{place}.output_proj.weight")[..., 0]
        hidden = hidden + entries[codes[:, level]] @ out.T
    place = "decoder.pre_conv.conv"
    hidden = F.conv1d(F.pad(hidden.T[None], (2, 0)), read(f"{place}.weight"), read(f"{place}.bias"))
    place = "decoder.pre_transformer."
    x = F.linear(hidden.mT, read(f"{place}input_proj.weight"), read(f"{place}input_proj.bias"))
    x = load(transformer(values), place)(inputs_embeds=x).last_hidden_state
    x = F.linear(x, read(f"{place}output_proj.weight"), read(f"{place}output_proj.bias")).mT
    vocoder = load(code2wav(values), "decoder.")
    for block in (*(block for blocks in vocoder.upsample for block in blocks), *vocoder.decoder):
        x = block(x)
    return x.clamp(-1, 1)[0, 0]


_UNUSED = ("pre_transformer.", "code_embedding.")

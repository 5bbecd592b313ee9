"""Makes small random parts of a Qwen3-TTS checkpoint in the real format, for everybody's tests."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from stentor.models.qwen3_codec.config import FOLDER, QwenCodecConfig
from stentor.models.qwen3_codec.inventory import expected_shapes

TINY_QWEN_CODEC: dict[str, Any] = {
    "model_type": "qwen3_tts_tokenizer_12hz",
    "encoder_valid_num_quantizers": 16,
    "input_sample_rate": 24000,
    "output_sample_rate": 24000,
    "decode_upsample_rate": 1920,
    "encode_downsample_rate": 1920,
    "decoder_config": {
        "codebook_dim": 16,
        "codebook_size": 64,
        "latent_dim": 24,
        "hidden_size": 16,
        "head_dim": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "sliding_window": 6,
        "num_hidden_layers": 2,
        "num_quantizers": 16,
        "decoder_dim": 32,
        "upsample_rates": [8, 5, 4, 3],
        "upsampling_ratios": [2, 2],
    },
    "encoder_config": {
        "_frame_rate": 12.5,
        "num_filters": 2,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 32,
        "num_quantizers": 18,
        "codebook_size": 64,
        "codebook_dim": 8,
        "vector_quantization_hidden_dimension": 8,
        "sliding_window": 10,
        "upsample_groups": 16,
        "rope_theta": 10000.0,
    },
}
"""A codec with the real frame of 1920 samples and 16 codebooks, which sees 22 frames back."""


def make_speech_tokenizer(folder: Path, codebook_size: int = 64, seed: int = 0) -> None:
    """Write `speech_tokenizer` into a checkpoint's folder; the size of its codebooks is a power of two."""
    config = json.loads(json.dumps(TINY_QWEN_CODEC))
    for part in ("decoder_config", "encoder_config"):
        config[part]["codebook_size"] = codebook_size
    place = folder / FOLDER
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)
    shapes = expected_shapes(QwenCodecConfig.of_checkpoint(folder))
    # `inventory` is held to the names that transformers has by its own test.
    tensors = {name: _random(name, shape, generator) for name, shape in shapes.items()}
    save_file(tensors, place / "model.safetensors", {"format": "pt"})


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Numbers that keep signals at one loudness, and let every part be heard."""
    values = torch.randn(shape, generator=generator)
    if name.endswith("initialized"):
        return torch.ones(shape)
    if name.endswith("cluster_usage"):
        return 0.5 + values.abs()
    if name.endswith(("embed_sum", "embedding_sum")):
        return values
    if name.endswith(("scale", "gamma")) or "norm.weight" in name:
        return 1.0 + 0.2 * values
    if name.startswith("decoder.decoder.6.") or ".conv2." in name:
        values /= 4
    if len(shape) == 1:
        return 0.1 * values
    return values / math.sqrt(math.prod(shape[1:]))

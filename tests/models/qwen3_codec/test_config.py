import json
from pathlib import Path
from typing import Any

import pytest

from stentor.errors import CheckpointError
from stentor.models.qwen3_codec.config import FOLDER, QwenCodecConfig
from tests.qwen3_codec_files import TINY_QWEN_CODEC

# What the real codec's file says otherwise than the tiny one's.
REAL = {"codebook_dim": 512, "latent_dim": 1024, "hidden_size": 512, "head_dim": 64, "num_hidden_layers": 8}
REAL |= {"num_attention_heads": 16, "num_key_value_heads": 16, "sliding_window": 72, "decoder_dim": 1536}


def read(folder: Path, section: str = "", **changes: Any) -> QwenCodecConfig:
    config = json.loads(json.dumps(TINY_QWEN_CODEC))
    (config[section] if section else config).update(changes)
    (folder / FOLDER).mkdir(exist_ok=True)
    (folder / FOLDER / "config.json").write_text(json.dumps(config))
    return QwenCodecConfig.of_checkpoint(folder)


def test_the_real_codec_s_numbers(tmp_path: Path) -> None:
    config = read(tmp_path, "decoder_config", **REAL)
    assert (config.sample_rate_hz, config.samples_per_frame, config.num_codebooks) == (24000, 1920, 16)
    assert (config.near_frames, config.context_frames) == (10, 10 + 8 * 71 + 2)
    assert [config.padded_length(samples) for samples in (0, 1, 1920, 1921)] == [1920, 1920, 1920, 3840]
    assert config.decoding_bytes(2, 4) == 2 * config.decoding_bytes(1, 4) == 2 * 6 * 4 * 96 * 1920


@pytest.mark.parametrize(
    ("section", "name", "value", "named"),
    [
        ("", "model_type", "qwen3_tts_tokenizer_25hz", "model_type must be 'qwen3_tts_tokenizer_12hz'"),
        ("", "decoder_config", None, "decoder_config is missing"),
        ("", "decode_upsample_rate", 960, "decode_upsample_rate is 960"),
        ("", "encode_downsample_rate", 960, "encode_downsample_rate"),
        ("", "input_sample_rate", 16000, "input_sample_rate"),
        ("", "encoder_valid_num_quantizers", 8, "the encoder gives 8 of 64"),
        ("decoder_config", "hidden_act", "gelu", "hidden_act must be 'silu'"),
        ("decoder_config", "sliding_window", 0, "sliding_window"),
        ("decoder_config", "decoder_dim", 24, "decoder_dim"),
        ("encoder_config", "use_conv_shortcut", True, "use_conv_shortcut must be False"),
        ("encoder_config", "upsampling_ratios", [8, 6, 5], "the product"),
        ("encoder_config", "num_quantizers", 12, "the encoder gives 12"),
        ("encoder_config", "codebook_dim", 16, "codebook_dim"),
    ],
)
def test_an_unfit_field_is_named(tmp_path: Path, section: str, name: str, value: Any, named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        read(tmp_path, section, **{name: value})

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from stentor.errors import CheckpointError
from stentor.models.higgs_audio_codec.config import FILE_NAME, CodecConfig, context_frames
from tests.models.higgs_audio_codec.reference import tiny_config


def write(folder: Path, config: dict[str, Any]) -> Path:
    path = folder / FILE_NAME
    path.write_text(json.dumps(config))
    return path


def test_the_packaged_configuration_is_the_real_codec() -> None:
    config = CodecConfig.read()
    assert (config.sample_rate_hz, config.samples_per_frame, config.num_codebooks) == (24000, 960, 8)
    assert (config.codebook_size, config.codebook_dim, config.hidden_size) == (1024, 64, 1024)
    assert (config.semantic_steps_per_frame, config.context_frames) == (2, 10)


def test_a_checkpoint_brings_its_own_configuration_or_gets_the_packaged_one(tmp_path: Path) -> None:
    assert CodecConfig.of_checkpoint(tmp_path) == CodecConfig.read()
    write(tmp_path, tiny_config())
    assert CodecConfig.of_checkpoint(tmp_path).acoustic.decoder_hidden_size == 64


@pytest.mark.parametrize("ratios", [(8, 5, 4, 2, 3), (4, 4, 4, 3, 5), (8, 8, 4, 2), (2, 3), (5,), (3, 7)])
def test_context_is_what_the_samples_of_a_frame_depend_on_and_no_more(ratios: tuple[int, ...]) -> None:
    around = context_frames(ratios) + 3
    frame = math.prod(ratios)
    reached = impulse_response(ratios, 2 * around + 1).reshape(-1, frame).any(dim=1).nonzero().flatten()
    assert int(max(around - reached.min(), reached.max() - around)) == context_frames(ratios)


def impulse_response(ratios: tuple[int, ...], frames: int) -> torch.Tensor:
    """Which samples an impulse in the middle frame reaches in a one-channel decoder with these strides."""
    x = torch.zeros(1, 1, frames, dtype=torch.float64)
    x[..., frames // 2] = 1.0
    edge = torch.ones(1, 1, 7, dtype=torch.float64)
    x = F.conv1d(x, edge, padding=3).sign()
    for stride in ratios:
        up = torch.ones(1, 1, 2 * stride, dtype=torch.float64)
        x = F.conv_transpose1d(x, up, None, stride, math.ceil(stride / 2), stride % 2).sign()
        for dilation in (1, 3, 9):
            x = (x + F.conv1d(x, edge, padding=3 * dilation, dilation=dilation)).sign()
    return F.conv1d(x, edge, padding=3)[0, 0] > 0


@pytest.mark.parametrize(
    ("section", "name", "value", "named"),
    [
        ("acoustic_model_config", "upsampling_ratios", [8, 5, 4, 2], "hop"),
        ("acoustic_model_config", "decoder_hidden_size", 48, "decoder_hidden_size"),
        ("acoustic_model_config", "hidden_size", None, "hidden_size is missing"),
        ("acoustic_model_config", "downsampling_ratios", [8, "5"], "downsampling_ratios"),
        ("semantic_model_config", "feat_extract_norm", "layer", "feat_extract_norm"),
        ("semantic_model_config", "do_stable_layer_norm", True, "do_stable_layer_norm"),
        ("semantic_model_config", "conv_kernel", [10], "conv_kernel"),
        ("", "strides", [2, 1], "strides"),
        ("", "target_bandwidths", [0.1], "target_bandwidths"),
        ("", "codebook_size", 0, "codebook_size"),
        ("", "semantic_sample_rate", 11000, "semantic steps"),
    ],
)
def test_an_unfit_field_is_named(tmp_path: Path, section: str, name: str, value: Any, named: str) -> None:
    config = tiny_config()
    (config[section] if section else config)[name] = value
    with pytest.raises(CheckpointError, match=named):
        CodecConfig.read(write(tmp_path, config))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_text("{")
    with pytest.raises(CheckpointError, match=FILE_NAME):
        CodecConfig.read(path)

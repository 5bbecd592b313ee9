"""The geometry of the speaker encoder: every tensor by its name, and what cannot be is refused."""

from pathlib import Path
from typing import Any

import pytest

from stentor.errors import CheckpointError
from stentor.models.fields import Fields
from stentor.models.qwen3_codec.speaker_config import SpeakerConfig

SMALL: dict[str, Any] = {
    "mel_dim": 20,
    "enc_dim": 12,
    "enc_channels": [16, 16, 16, 32],
    "enc_kernel_sizes": [5, 3, 3, 1],
    "enc_dilations": [1, 2, 3, 1],
    "enc_attention_channels": 6,
    "enc_res2net_scale": 4,
    "enc_se_channels": 5,
}


def config(**changes: Any) -> SpeakerConfig:
    return SpeakerConfig.of(Fields(Path("config.json"), {**SMALL, **changes}, "speaker_encoder_config."))


def test_names_stand_behind_a_prefix() -> None:
    assert config().shapes("speaker_encoder.")["speaker_encoder.fc.weight"] == (12, 64, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"enc_channels": [16, 16, 16, 16]},
        {"enc_channels": [16, 32]},
        {"enc_channels": [16, 16, 8, 24]},
        {"enc_res2net_scale": 3},
        {"enc_dilations": [1, 2, 3]},
        {"enc_dim": 0},
        {"sample_rate": 16_000},
    ],
)
def test_a_configuration_that_does_not_fit_together_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: speaker_encoder_config\."):
        config(**changes)

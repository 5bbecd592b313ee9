"""Every tensor is accounted for, and parts that are not of one checkpoint are named."""

from pathlib import Path

import pytest

from stentor.errors import CheckpointError
from stentor.models.qwen3_tts.checkpoint import (
    all_shapes,
    codec_identity,
    lm_shapes,
    open_weights,
    read_speaker,
)
from stentor.models.qwen3_tts.config import QwenConfig
from stentor.models.qwen3_tts.spec import QwenTTS
from tests.qwen3_checkpoints import Network, make_qwen3_checkpoint


def test_names_are_those_of_the_network(tmp_path: Path) -> None:
    config = QwenConfig.read(make_qwen3_checkpoint(tmp_path))
    named = {name: tuple(values.shape) for name, values in Network().state_dict().items()}
    assert lm_shapes(config) == all_shapes(tmp_path, config) == named
    assert open_weights(tmp_path, config).shapes == named
    assert read_speaker(tmp_path, config) is None


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("config.json", '"enc_dim": 48', '"enc_dim": 40', "enc_dim is 40, but the talker's .* 48"),
        (
            "speech_tokenizer/config.json",
            '"codebook_size": 64',
            '"codebook_size": 32',
            "codebooks of 32 codes.* of 64",
        ),
    ],
)
def test_parts_of_different_checkpoints_are_named(
    tmp_path: Path, file: str, old: str, new: str, problem: str
) -> None:
    make_qwen3_checkpoint(tmp_path, "base")
    content = (tmp_path / file).read_text()
    assert old in content
    (tmp_path / file).write_text(content.replace(old, new))
    with pytest.raises(CheckpointError, match=problem):
        QwenTTS().check(tmp_path)


def test_codecs_of_other_books_have_other_names(tmp_path: Path) -> None:
    folders = [make_qwen3_checkpoint(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    names = [codec_identity(folder) for folder in folders]
    assert names[0] != names[1]
    assert all(names)
    (folders[0] / "speech_tokenizer" / "model.safetensors").unlink()
    assert codec_identity(folders[0]) == ""

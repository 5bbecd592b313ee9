"""What a checkpoint says is read, and what it lacks or says wrongly is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from stentor.errors import CheckpointError
from stentor.models.qwen3_tts.config import QwenConfig
from tests.qwen3_checkpoints import CODES, config


def read(folder: Path, content: dict[str, Any]) -> QwenConfig:
    (folder / "config.json").write_text(json.dumps(content))
    return QwenConfig.read(folder)


def test_a_real_configuration_is_understood(tmp_path: Path) -> None:
    told = read(tmp_path, config())
    assert (told.num_codes, told.num_codebooks, told.max_positions) == (CODES, 16, 4096)
    assert (told.talker.hidden_size, told.predictor.hidden_size, told.talker.head_dim) == (48, 32, 16)
    assert told.dialects == {"eric": "sichuan_dialect"}
    assert told.marks.tts_eos == 291
    assert told.marks.eos == CODES + 102
    assert told.reads_instructions
    # The small one was not taught any, and Base reads none.
    assert not read(tmp_path, config() | {"tts_model_size": "0b6"}).reads_instructions
    assert not read(tmp_path, config("base")).reads_instructions


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (["model_type"], "qwen3", "model_type is 'qwen3'"),
        (["tts_model_type"], "song", "'song', not one of base, custom_voice, voice_design"),
        (["tts_pad_token_id"], None, "tts_pad_token_id is missing"),
        (["talker_config", "codec_bos_id"], None, "talker_config.codec_bos_id is missing"),
        (["talker_config", "use_sliding_window"], True, "talker_config.use_sliding_window must be false"),
        (["talker_config", "spk_id"], {}, "spk_id names no speaker"),
        (["talker_config", "spk_id"], {"x": 5000}, "spk_id has an id beyond"),
        (["talker_config", "codec_language_id"], {"x": "y"}, "must map names to ids"),
        (["talker_config", "code_predictor_config", "vocab_size"], 8, f"16 groups of {CODES} codes"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, path: list[str], value: Any, problem: str) -> None:
    content: dict[str, Any] = config()
    place = content
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(CheckpointError, match=problem):
        read(tmp_path, content)

"""Laws of reading a checkpoint's configuration, oddities included."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stentor.errors import CheckpointError
from stentor.models.higgs_audio_v3.config import V3Config, read_max_prompt_chars
from tests.checkpoints import Recipe, model_config

Content = dict[str, Any]


def read(folder: Path, change: Callable[[Content], object] = lambda content: None) -> V3Config:
    content = model_config(Recipe())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))
    return V3Config.read(folder)


def test_every_size_is_read(tmp_path: Path) -> None:
    recipe = Recipe()
    assert read(tmp_path) == V3Config(
        num_codebooks=8,
        codebook_size=1026,
        text_vocab_size=recipe.text_vocab,
        hidden_size=48,
        intermediate_size=96,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_positions=32768,
        rope_theta=1e6,
        norm_eps=1e-6,
        tied_heads=True,
    )


def test_special_codes_stand_behind_the_real_ones(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert (config.num_codes, config.begin_code, config.end_code) == (1024, 1024, 1025)


@pytest.mark.parametrize(
    ("flat", "nested", "theta"),
    [
        (None, {"rope_theta": 500_000.0}, 500_000.0),
        (None, {"rope_theta": 10_000}, 10_000.0),
        (250_000, {"rope_theta": 500_000.0}, 250_000.0),
        (None, {}, 1e6),
        (None, None, 1e6),
    ],
)
def test_a_null_rope_theta_falls_back_step_by_step(
    tmp_path: Path, flat: object, nested: object, theta: float
) -> None:
    config = read(
        tmp_path, lambda content: content["text_config"].update(rope_theta=flat, rope_parameters=nested)
    )
    assert config.rope_theta == theta


def test_absent_fields_take_the_formats_defaults(tmp_path: Path) -> None:
    def drop(content: Content) -> None:
        for name in ("num_codebooks", "vocab_size", "out_dim", "tie_word_embeddings", "encoder_type"):
            del content["audio_encoder_config"][name]
        for name in ("model_type", "rms_norm_eps", "rope_theta", "rope_parameters", "hidden_act"):
            del content["text_config"][name]

    assert read(tmp_path, drop) == read(tmp_path)


UNFIT: list[tuple[str, str, object, str]] = [
    ("", "model_type", "qwen3", "model_type is 'qwen3', not"),
    ("", "text_config", None, "text_config is missing"),
    ("", "audio_encoder_config", [1], "audio_encoder_config is"),
    ("audio_encoder_config", "encoder_type", "whisper", "only 'discrete' speaks"),
    ("audio_encoder_config", "num_codebooks", "8", "num_codebooks is '8'; it must be of type int"),
    ("audio_encoder_config", "num_codebooks", 1, "at least 2"),
    ("audio_encoder_config", "vocab_size", 2, "no room for codes"),
    ("audio_encoder_config", "out_dim", 64, "out_dim is 64"),
    ("audio_encoder_config", "tie_word_embeddings", "yes", "must be of type bool"),
    ("text_config", "model_type", "llama", "only 'qwen3' is supported"),
    ("text_config", "hidden_size", None, "text_config.hidden_size is missing"),
    ("text_config", "hidden_size", 0, "must be at least 1"),
    ("text_config", "hidden_size", True, "must be of type int"),
    ("text_config", "num_key_value_heads", 3, "no multiple"),
    ("text_config", "head_dim", 15, "must be even"),
    ("text_config", "hidden_act", "gelu", "only 'silu'"),
    ("text_config", "attention_bias", True, "attention_bias"),
    ("text_config", "rope_parameters", {"rope_type": "yarn"}, "only 'default'"),
    (
        "text_config",
        "rope_scaling",
        {"rope_type": "yarn", "factor": 4.0},
        "rope_scaling: rope_type is 'yarn': only",
    ),
    (
        "text_config",
        "rope_scaling",
        {"type": "linear", "factor": 2.0},
        "rope_scaling: rope_type is 'linear': only",
    ),
]


@pytest.mark.parametrize(("section", "field", "value", "problem"), UNFIT)
def test_what_does_not_fit_is_refused_by_name(
    tmp_path: Path, section: str, field: str, value: object, problem: str
) -> None:
    def change(content: Content) -> None:
        (content[section] if section else content)[field] = value

    with pytest.raises(CheckpointError, match=problem) as caught:
        read(tmp_path, change)
    assert str(tmp_path / "config.json") in caught.value.message


def test_a_checkpoint_may_say_how_long_a_text_it_says_well(tmp_path: Path) -> None:
    assert read_max_prompt_chars(tmp_path) is None
    (tmp_path / "generation_config.json").write_text('{"max_prompt_chars": 60}')
    assert read_max_prompt_chars(tmp_path) == 60
    for bad in ("-1", '"many"'):
        (tmp_path / "generation_config.json").write_text(f'{{"max_prompt_chars": {bad}}}')
        with pytest.raises(CheckpointError, match="max_prompt_chars"):
            read_max_prompt_chars(tmp_path)

"""Both layouts of `config.json` say the same, and what does not fit is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stentor.errors import CheckpointError
from stentor.models.higgs_audio_v2.config import RopeScaling, V2Config
from tests.v2_checkpoints import hugging_face, original_config, write_json

Content = dict[str, Any]


@pytest.fixture(scope="module")
def published() -> Content:
    """What transformers saves."""
    content: Content = json.loads(hugging_face().config.to_json_string())
    return content


def read(folder: Path, content: Content, generation: Content | None = None) -> V2Config:
    write_json(folder / "config.json", content)
    if generation is not None:
        write_json(folder / "generation_config.json", generation)
    return V2Config.read(folder)


def test_both_layouts_describe_one_model(published: Content, tmp_path: Path) -> None:
    ours = read(tmp_path, published)
    theirs = read(tmp_path, original_config(published))
    assert ours.rope_scaling == RopeScaling(32.0, 0.125, 0.5, 1024.0)
    assert theirs.rope_scaling == RopeScaling(32.0, 1.0, 4.0, 8192.0)
    assert (ours.codebook_size, ours.num_codes, ours.max_positions) == (1026, 1024, 8192)
    different = {"rope_scaling"}
    fields = ours.__dataclass_fields__.keys() - different
    assert {name: getattr(ours, name) for name in fields} == {name: getattr(theirs, name) for name in fields}


@pytest.mark.parametrize(
    ("generation", "window", "limit"),
    [
        (None, 7, 2),
        ({"ras_win_len": 16, "ras_win_max_num_repeat": 3}, 16, 3),
        ({"ras_win_len": 0}, 0, 2),
        ({"ras_win_len": -1, "ras_win_max_num_repeat": 0}, 0, 0),
    ],
)
def test_how_codes_are_drawn_again(
    published: Content, tmp_path: Path, generation: Content | None, window: int, limit: int
) -> None:
    config = read(tmp_path, published, generation)
    assert (config.redraw_window, config.redraw_limit) == (window, limit)


@pytest.mark.parametrize(
    ("generation", "problem"),
    [
        ({"ras_win_len": 17}, "ras_win_len is 17: at most 16"),
        ({"ras_win_max_num_repeat": 0}, "ras_win_max_num_repeat is 0: it must be at least 1"),
    ],
)
def test_windows_that_nobody_remembers_are_refused(
    published: Content, tmp_path: Path, generation: Content, problem: str
) -> None:
    with pytest.raises(CheckpointError, match=problem):
        read(tmp_path, published, generation)


def put(name: str, value: object) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content[name] = value

    return change


def drop_the_stretch(content: Content) -> None:
    del content["rope_parameters"]


def linear_stretch(content: Content) -> None:
    content["rope_parameters"] = {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (put("model_type", "llama"), "model_type is 'llama'"),
        (put("hidden_act", "gelu"), "hidden_act is 'gelu'"),
        (put("attention_bias", True), "attention_bias is True"),
        (put("use_rq_transformer", True), "use_rq_transformer is True"),
        (put("audio_embed_avg", True), "audio_embed_avg is True"),
        (put("use_audio_out_self_attention", 1), "use_audio_out_self_attention is 1"),
        (put("use_delay_pattern", False), "use_delay_pattern is false"),
        (put("num_codebooks", 1), "there is 1 codebook"),
        (put("num_key_value_heads", 3), "is no multiple of num_key_value_heads"),
        (put("head_dim", 7), "head_dim is 7"),
        (put("codebook_size", 1024), "must be the last two, 1022 and 1023"),
        (put("audio_dual_ffn_layers", [0]), "names some layers"),
        (drop_the_stretch, "rope_scaling is missing"),
        (linear_stretch, "rope_type is 'linear'"),
        (put("vocab_size", None), "vocab_size is missing"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    published: Content, tmp_path: Path, change: Callable[[Content], None], problem: str
) -> None:
    content = json.loads(json.dumps(published))
    change(content)
    with pytest.raises(CheckpointError, match=problem) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "config.json") in caught.value.message


def test_the_published_file_says_no_in_several_ways(published: Content, tmp_path: Path) -> None:
    said = {"use_audio_out_self_attention": 0, "use_rq_transformer": None, "audio_embed_avg": False}
    assert read(tmp_path, original_config(published) | said) == read(tmp_path, original_config(published))

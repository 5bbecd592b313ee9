"""Laws of `generation_config.json`: what it says holds, what it leaves out is another's to say."""

import json
from pathlib import Path

import pytest

from stentor.errors import CheckpointError
from stentor.models.higgs_audio.generation import read_sampling_defaults
from stentor.request import SamplingParams

OTHERWISE = SamplingParams(1.0, 1.0, 0, None, 2048, 1.0)


def test_without_a_generation_config_other_defaults_hold(tmp_path: Path) -> None:
    assert read_sampling_defaults(tmp_path, OTHERWISE) == OTHERWISE


@pytest.mark.parametrize(
    ("content", "defaults"),
    [
        ({"temperature": 0.3}, SamplingParams(0.3, 1.0, 0, None, 2048, 1.0)),
        ({"temperature": 0.8, "top_p": 0.8, "top_k": 30}, SamplingParams(0.8, 0.8, 30, None, 2048, 1.0)),
        ({"max_new_tokens": 500, "eos_token_id": 151643}, SamplingParams(1.0, 1.0, 0, None, 500, 1.0)),
        ({"do_sample": False, "temperature": 0.7}, SamplingParams(0.0, 1.0, 0, None, 2048, 1.0)),
        ({"repetition_penalty": 1.1}, SamplingParams(1.0, 1.0, 0, None, 2048, 1.1)),
        ({"temperature": None, "top_p": 1}, SamplingParams(1.0, 1.0, 0, None, 2048, 1.0)),
    ],
)
def test_a_generation_config_sets_the_defaults(
    tmp_path: Path, content: dict[str, object], defaults: SamplingParams
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    assert read_sampling_defaults(tmp_path, OTHERWISE) == defaults


@pytest.mark.parametrize(
    "content", ['{"temperature": -1}', '{"top_p": 0}', '{"top_k": 1.5}', '{"temperature": NaN}', "["]
)
def test_an_unfit_generation_config_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        read_sampling_defaults(tmp_path, OTHERWISE)

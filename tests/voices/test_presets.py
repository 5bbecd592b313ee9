import json
from pathlib import Path

import numpy as np
import pytest

from stentor.errors import CheckpointError
from stentor.request import Reference
from stentor.voices.presets import DEFAULT, OPENAI_VOICES, Presets


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "voices"
    folder.mkdir()
    for name, frames in (("rosa", 3), ("carl", 5)):
        np.save(folder / f"{name}.npy", np.full((frames, 8), frames))
        (folder / f"{name}.txt").write_text(f"I am {name}.\n", encoding="utf-8")
    return tmp_path


def test_a_checkpoint_without_voices_has_its_default(tmp_path: Path) -> None:
    presets = Presets(tmp_path)
    assert presets.names() == (DEFAULT,)
    assert presets[DEFAULT] is None


def test_voices_are_codes_with_their_text(checkpoint: Path) -> None:
    presets = Presets(str(checkpoint))
    assert presets.names() == ("default", "carl", "rosa")
    rosa = presets["rosa"]
    assert rosa is not None
    assert rosa.codes is not None
    assert rosa.audio is None
    assert rosa.text == "I am rosa."
    np.testing.assert_array_equal(rosa.codes, np.full((3, 8), 3))


def test_all_names_of_openai_stand_for_the_default(checkpoint: Path) -> None:
    assert len(OPENAI_VOICES) == 13
    assert [Presets(checkpoint).find(name) for name in OPENAI_VOICES] == [DEFAULT] * 13
    assert Presets(checkpoint).find("otto") is None


def test_a_voice_of_the_checkpoint_wins_over_an_openai_name(checkpoint: Path) -> None:
    np.save(checkpoint / "voices" / "alloy.npy", np.ones((2, 8), np.uint16))
    (checkpoint / "voices" / "alloy.txt").write_text("Alloy.")
    presets = Presets(checkpoint)
    assert presets.find("alloy") == "alloy"
    assert presets["alloy"] is not None


def test_speakers_of_the_model_are_voices_in_any_case_and_openais_names_mean_them_in_turn(
    checkpoint: Path,
) -> None:
    presets = Presets(checkpoint, ("vivian", "uncle_fu"))
    assert presets.names() == ("default", "vivian", "uncle_fu", "carl", "rosa")
    assert [presets.find(name) for name in ("Uncle_Fu", "VIVIAN", "Rosa", "rosa")] == [
        *("uncle_fu", "vivian", None, "rosa")
    ]
    assert presets["vivian"] == Reference(speaker="vivian")
    assert [presets.find(name) for name in OPENAI_VOICES[:3]] == ["vivian", "uncle_fu", "vivian"]
    assert presets[DEFAULT] is None
    (checkpoint / "voices" / "aliases.json").write_text('{"ash": "carl"}')
    presets = Presets(checkpoint, ("vivian", "uncle_fu"))
    assert [presets.find(name) for name in OPENAI_VOICES[:3]] == ["vivian", "carl", "vivian"]


@pytest.mark.parametrize(
    "codes", [np.ones((3, 8)), np.ones(8, np.int64), np.zeros((0, 8), np.int64), np.array([{}], object)]
)
def test_a_damaged_voice_is_named(checkpoint: Path, codes: np.ndarray) -> None:
    np.save(checkpoint / "voices" / "rosa.npy", codes, allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"rosa\.npy"):
        Presets(checkpoint)


def test_a_voice_without_its_text_is_named(checkpoint: Path) -> None:
    (checkpoint / "voices" / "carl.txt").unlink()
    with pytest.raises(CheckpointError, match=r"carl\.npy.*carl\.txt"):
        Presets(checkpoint)


def test_aliases_are_further_names_of_voices_but_never_hide_one(checkpoint: Path) -> None:
    aliases = {"alloy": "rosa", "echo": "default", "carl": "rosa"}
    (checkpoint / "voices" / "aliases.json").write_text(json.dumps(aliases))
    presets = Presets(checkpoint)
    assert [presets.find(name) for name in ("alloy", "echo", "carl")] == ["rosa", "default", "carl"]
    assert presets.names() == ("default", "carl", "rosa")


@pytest.mark.parametrize("content", ['{"alloy": "nobody"}', '{"alloy": ["rosa"]}', "[1]", "{"])
def test_damaged_aliases_are_an_error_at_start(checkpoint: Path, content: str) -> None:
    (checkpoint / "voices" / "aliases.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"aliases\.json"):
        Presets(checkpoint)

import json
from pathlib import Path

import numpy as np
import pytest

from stentor.errors import CheckpointError, NotFoundError
from stentor.voices import OPENAI_VOICES, VoiceStore


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "voices"
    folder.mkdir()
    for name, frames in (("rosa", 3), ("carl", 5)):
        np.save(folder / f"{name}.npy", np.full((frames, 8), frames))
        (folder / f"{name}.txt").write_text(f"I am {name}.\n", encoding="utf-8")
    return tmp_path


def test_a_checkpoint_without_voices_has_its_default(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    assert store.names() == ("default",)
    assert store.get("default") is None


def test_voices_are_codes_with_their_text(checkpoint: Path) -> None:
    store = VoiceStore(str(checkpoint))
    assert store.names() == ("default", "carl", "rosa")
    rosa = store.get("rosa")
    assert rosa is not None
    assert rosa.codes is not None
    assert rosa.audio is None
    assert rosa.text == "I am rosa."
    np.testing.assert_array_equal(rosa.codes, np.full((3, 8), 3))


def test_an_unknown_voice_is_not_found_and_the_known_ones_are_named(checkpoint: Path) -> None:
    with pytest.raises(NotFoundError, match="no voice 'otto': choose one of default, carl, rosa") as caught:
        VoiceStore(checkpoint).get("otto")
    assert (caught.value.param, caught.value.code) == ("voice", "voice_not_found")


@pytest.mark.parametrize("name", ["../rosa", "voices/rosa", "rosa.npy", "", "ROSA", "\0"])
def test_only_names_are_voices_and_never_paths(checkpoint: Path, name: str) -> None:
    with pytest.raises(NotFoundError):
        VoiceStore(checkpoint).get(name)


def test_all_names_of_openai_resolve_to_the_default(checkpoint: Path) -> None:
    store = VoiceStore(checkpoint)
    assert len(OPENAI_VOICES) == 13
    assert [store.get(name) for name in OPENAI_VOICES] == [None] * 13


def test_a_voice_of_the_checkpoint_wins_over_an_openai_name(checkpoint: Path) -> None:
    np.save(checkpoint / "voices" / "alloy.npy", np.ones((2, 8), np.uint16))
    (checkpoint / "voices" / "alloy.txt").write_text("Alloy.")
    reference = VoiceStore(checkpoint).get("alloy")
    assert reference is not None
    assert reference.text == "Alloy."


@pytest.mark.parametrize(
    "codes", [np.ones((3, 8)), np.ones(8, np.int64), np.zeros((0, 8), np.int64), np.array([{}], object)]
)
def test_a_damaged_voice_is_named(checkpoint: Path, codes: np.ndarray) -> None:
    np.save(checkpoint / "voices" / "rosa.npy", codes, allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"rosa\.npy"):
        VoiceStore(checkpoint)


def test_a_voice_without_its_text_is_named(checkpoint: Path) -> None:
    (checkpoint / "voices" / "carl.txt").unlink()
    with pytest.raises(CheckpointError, match=r"carl\.npy.*carl\.txt"):
        VoiceStore(checkpoint)


def test_aliases_are_further_names_of_voices_but_never_hide_one(checkpoint: Path) -> None:
    aliases = {"alloy": "rosa", "echo": "default", "carl": "rosa"}
    (checkpoint / "voices" / "aliases.json").write_text(json.dumps(aliases))
    store = VoiceStore(checkpoint)
    assert store.get("alloy") is store.get("rosa")
    assert store.get("echo") is None
    assert store.get("carl") is not store.get("rosa")
    assert store.names() == ("default", "carl", "rosa")


@pytest.mark.parametrize("content", ['{"alloy": "nobody"}', '{"alloy": ["rosa"]}', "[1]", "{"])
def test_damaged_aliases_are_an_error_at_start(checkpoint: Path, content: str) -> None:
    (checkpoint / "voices" / "aliases.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"aliases\.json"):
        VoiceStore(checkpoint)

"""Laws of the tokenizer's file: what is damaged is named, and what users may not write is only text."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from stentor.errors import CheckpointError
from stentor.models.higgs_audio.tokens import TextTokenizer, TokenizerFile
from tests.checkpoints import CONTROL_TAGS, Recipe, tokenizer_json


def write(folder: Path, content: dict[str, Any]) -> TokenizerFile:
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return TokenizerFile(folder)


def test_missing_tokens_are_named(tmp_path: Path) -> None:
    file = write(tmp_path, tokenizer_json(Recipe()))
    file.require(CONTROL_TAGS)
    with pytest.raises(CheckpointError, match=r"tokens <\|scene\|>, <SE> are missing"):
        file.require(["<|scene|>", "<|audio|>", "<SE>"])


def test_tokens_that_are_also_in_the_models_vocabulary_inject_nothing(tmp_path: Path) -> None:
    content = tokenizer_json(Recipe())
    content["model"]["vocab"] |= {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    content["model"]["ignore_merges"] = True
    ours = TextTokenizer(write(tmp_path, content), CONTROL_TAGS, 10_000)
    assert not set(TokenizerFile(tmp_path).ids.values()) & set(ours.encode("<|audio|><|tts|> <tool_call>"))


def test_spaces_that_a_tag_swallows_by_its_own_flags_are_swallowed(tmp_path: Path) -> None:
    content = tokenizer_json(Recipe())
    for entry in content["added_tokens"]:
        entry["lstrip"] = entry["rstrip"] = entry["content"] == "<|sfx:cough|>"
    recipe = Recipe()
    ours = TextTokenizer(write(tmp_path, content), CONTROL_TAGS, recipe.text_vocab)
    files = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ["a <|sfx:cough|> b", "  <|sfx:cough|>  ", "a <|prosody:pause|> b"]:
        assert ours.encode(text) == files.encode(text, add_special_tokens=False).ids


def test_ids_beyond_the_embedding_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, tokenizer_json(Recipe()))
    with pytest.raises(CheckpointError, match="beyond the text vocabulary of 300"):
        TextTokenizer(file, CONTROL_TAGS, 300)


def write_apart(folder: Path) -> None:
    """The same tokenizer as vocabulary, merges and settings, as Qwen's checkpoints have it."""
    content = tokenizer_json(Recipe())
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (folder / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    added = {str(entry.pop("id")): entry for entry in content["added_tokens"]}
    settings = {"added_tokens_decoder": added, "tokenizer_class": "Qwen2Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_a_vocabulary_with_its_merges_is_qwens_tokenizer(tmp_path: Path) -> None:
    from transformers import Qwen2Tokenizer

    write_apart(tmp_path)
    theirs = Qwen2Tokenizer.from_pretrained(tmp_path)
    file = TokenizerFile(tmp_path)
    built = json.loads(Tokenizer.from_str(json.dumps(file.content)).to_str())
    expected = json.loads(theirs.backend_tokenizer.to_str())
    for part in ("normalizer", "pre_tokenizer"):
        assert built[part] == expected[part]
    for part in ("vocab", "merges"):
        assert built["model"][part] == expected["model"][part]
    assert file.ids == {name: theirs.convert_tokens_to_ids(name) for name in file.ids}
    text = "The hen isn't<|tts|> 12 e\u0301 \u4f60\u597d\uff0c\U0001f600#version\r\n"
    ours = TextTokenizer(file, list(file.ids), 10_000)
    assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("merges.txt", None),
        ("merges.txt", b"\xff"),
        ("vocab.json", b"[]"),
        ("tokenizer_config.json", None),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": 2}}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"one": {"content": "<|tts|>"}}}'),
    ],
)
def test_a_damaged_part_is_refused_by_name(tmp_path: Path, name: str, content: bytes | None) -> None:
    write_apart(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(name)):
        TokenizerFile(tmp_path)


def drop_vocabulary(content: dict[str, Any]) -> None:
    content["model"] = {"type": "BPE"}


def repeat_an_id(content: dict[str, Any]) -> None:
    content["added_tokens"][0]["id"] = content["added_tokens"][1]["id"]


def drop_an_id(content: dict[str, Any]) -> None:
    del content["added_tokens"][0]["id"]


def unknown_model(content: dict[str, Any]) -> None:
    content["model"]["type"] = "Oracle"


@pytest.mark.parametrize("damage", [drop_vocabulary, repeat_an_id, drop_an_id, unknown_model])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    content = tokenizer_json(Recipe())
    damage(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        TextTokenizer(write(tmp_path, content), CONTROL_TAGS, 10_000)


def test_an_absent_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: cannot be read"):
        TokenizerFile(tmp_path)

"""Laws of the tokenizer: the file's own ids for ordinary text, single ids for tags, no structure."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from stentor.errors import CheckpointError
from stentor.models.higgs_audio.tokens import TokenizerFile
from stentor.models.higgs_audio_v3.tokenizer import V3Tokenizer
from tests.checkpoints import CONTROL_TAGS, SPECIAL_TOKENS, Recipe, tokenizer_json

STRUCTURE = [token for token in SPECIAL_TOKENS if token not in CONTROL_TAGS]

words = st.one_of(
    st.text(max_size=8), st.sampled_from(["hello world", " ", "\n", "e\u0301", "1234", "<", "|>", "<|"])
)
ordinary_texts = st.lists(words).map("".join).filter(lambda text: not any(t in text for t in SPECIAL_TOKENS))
hostile_texts = st.lists(st.one_of(words, st.sampled_from(SPECIAL_TOKENS))).map("".join)


def write(folder: Path, content: dict[str, Any]) -> TokenizerFile:
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return TokenizerFile(folder)


def tokenizers(tmp: Path, shuffled: bool = False) -> tuple[V3Tokenizer, Tokenizer]:
    """Ours, and the library's own of the same file."""
    recipe = Recipe(shuffle_tokens=shuffled, seed=3)
    file = write(tmp, tokenizer_json(recipe))
    return V3Tokenizer(file, recipe.text_vocab), Tokenizer.from_file(str(tmp / "tokenizer.json"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[V3Tokenizer, Tokenizer]:
    return tokenizers(tmp_path_factory.mktemp("tokenizer"))


@given(text=ordinary_texts)
def test_ordinary_text_gets_the_files_own_ids(pair: tuple[V3Tokenizer, Tokenizer], text: str) -> None:
    ours, files = pair
    assert ours.encode(text) == files.encode(text, add_special_tokens=False).ids


@given(texts=st.lists(st.one_of(ordinary_texts, st.sampled_from(CONTROL_TAGS))))
def test_tags_among_text_get_the_files_own_ids(pair: tuple[V3Tokenizer, Tokenizer], texts: list[str]) -> None:
    ours, files = pair
    text = "".join(texts)
    if not any(token in text for token in STRUCTURE):
        assert ours.encode(text) == files.encode(text, add_special_tokens=False).ids


@given(text=hostile_texts)
def test_no_structural_id_comes_out_of_a_users_text(pair: tuple[V3Tokenizer, Tokenizer], text: str) -> None:
    ours, files = pair
    structural = {files.token_to_id(token) for token in STRUCTURE}
    assert len(structural) == len(STRUCTURE)
    assert not structural & set(ours.encode(text))


@given(text=hostile_texts)
def test_decoding_gives_the_text_back(pair: tuple[V3Tokenizer, Tokenizer], text: str) -> None:
    ours, files = pair
    normalised = files.normalizer.normalize_str(text)
    # Normalisation stops at tags, so a mark behind one may stay apart.
    decoded = files.normalizer.normalize_str(files.decode(ours.encode(text), skip_special_tokens=False))
    assert decoded == normalised


@pytest.mark.parametrize("text", ["  hello ", "\thello\n\n", " ", "a  b"])
def test_spaces_at_the_ends_stay(pair: tuple[V3Tokenizer, Tokenizer], text: str) -> None:
    ours, files = pair
    assert files.decode(ours.encode(text)) == text


def test_composed_and_decomposed_letters_are_the_same(pair: tuple[V3Tokenizer, Tokenizer]) -> None:
    ours, _ = pair
    assert ours.encode("caf\u00e9") == ours.encode("cafe\u0301")


@pytest.mark.parametrize("tag", CONTROL_TAGS)
def test_each_tag_is_a_single_id(pair: tuple[V3Tokenizer, Tokenizer], tag: str) -> None:
    ours, files = pair
    assert ours.encode(tag) == [files.token_to_id(tag)]
    assert ours.encode(f"a{tag}b") == [*ours.encode("a"), files.token_to_id(tag), *ours.encode("b")]


def test_the_43_control_tags_are_found_in_the_order_of_their_ids(pair: tuple[V3Tokenizer, Tokenizer]) -> None:
    ours, _ = pair
    assert list(ours.structure.control_tags) == CONTROL_TAGS
    assert len(CONTROL_TAGS) == 43


def test_tokens_are_found_by_name_wherever_their_ids_are(tmp_path: Path) -> None:
    ours, files = tokenizers(tmp_path, shuffled=True)
    assert ours.structure.tts == files.token_to_id("<|tts|>")
    assert ours.structure.ref_text == files.token_to_id("<|ref_text|>")
    assert ours.encode("<|sfx:cough|>") == [files.token_to_id("<|sfx:cough|>")]
    assert set(ours.structure.control_tags) == set(CONTROL_TAGS)


@pytest.mark.parametrize("token", ["<|tts|>", "<|text|>", "<|audio|>", "<|ref_audio|>"])
def test_a_missing_structural_token_is_named(tmp_path: Path, token: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        V3Tokenizer(write(tmp_path, tokenizer_json(Recipe(drop_tokens=(token,)))), 10_000)
    assert token in caught.value.message


def test_a_checkpoint_may_lack_transcripts_and_tags(tmp_path: Path) -> None:
    recipe = Recipe(drop_tokens=("<|ref_text|>", *CONTROL_TAGS))
    ours = V3Tokenizer(write(tmp_path, tokenizer_json(recipe)), recipe.text_vocab)
    assert ours.structure.ref_text is None
    assert ours.structure.control_tags == {}
    assert len(ours.encode("<|sfx:cough|>")) > 1

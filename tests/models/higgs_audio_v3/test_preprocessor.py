"""Laws of the prompt: its layouts, its limits, and errors that say how to mend a request."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stentor.errors import RequestError
from stentor.models.higgs_audio.limits import Limits
from stentor.models.higgs_audio.tokens import TokenizerFile
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_v3.preprocessor import V3Preprocessor
from stentor.models.higgs_audio_v3.tokenizer import V3Tokenizer
from stentor.request import Prompt, Reference, SamplingParams, SpeechRequest
from tests.checkpoints import CONTROL_TAGS, SPECIAL_TOKENS, Recipe, tokenizer_json

DEFAULTS = SamplingParams(0.7, 0.9, 40, None, 2048)
CODES = np.arange(80).reshape(10, 8)
SPEECH = np.ones(24500, dtype=np.float32)


def make(folder: Path, context_limit: int = 4096, **changes: Any) -> tuple[V3Preprocessor, V3Tokenizer]:
    recipe = Recipe(**changes)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(recipe)))
    tokenizer = V3Tokenizer(TokenizerFile(folder), recipe.text_vocab)
    return V3Preprocessor(tokenizer, Limits(CodecConfig.read(), context_limit, 30.0, DEFAULTS)), tokenizer


def prepare(folder: Path, text: str = "Hello.", *, context_limit: int = 4096, **fields: Any) -> Prompt:
    preprocessor, _ = make(folder, context_limit)
    request = SpeechRequest("r", text, **fields)
    given = request.reference is not None and request.reference.audio is not None
    return preprocessor.prepare(request, SPEECH if given else None)


def spelled(folder: Path, prompt: Prompt) -> list[str]:
    """The prompt's structural tokens by name, runs of text as one string."""
    file = TokenizerFile(folder)
    names = {id: name for name, id in file.ids.items()}
    tokens: list[str] = []
    for id in prompt.token_ids.tolist():
        if id in names:
            tokens.append(names[id])
        elif tokens[-1].startswith("<|"):
            tokens.append(chr(id))
        else:
            tokens[-1] += chr(id)
    return tokens


def test_zero_shot_is_text_between_its_tokens(tmp_path: Path) -> None:
    preprocessor, tokenizer = make(tmp_path)
    prompt = preprocessor.prepare(SpeechRequest("r", "Hi, you."), None)
    parts = tokenizer.structure
    assert prompt.token_ids.tolist() == [parts.tts, parts.text, *tokenizer.encode("Hi, you."), parts.audio]
    assert prompt.token_ids.dtype == np.int32
    assert prompt.reference_start == 0
    assert prompt.reference_codes is None
    assert prompt.reference_waveform is None


def test_a_clone_has_its_rows_behind_ref_audio(tmp_path: Path) -> None:
    preprocessor, tokenizer = make(tmp_path)
    prompt = preprocessor.prepare(SpeechRequest("r", "Hi.", reference=Reference(codes=CODES)), None)
    parts = tokenizer.structure
    assert prompt.token_ids.tolist() == [
        *(parts.tts, parts.ref_audio, parts.text),
        *tokenizer.encode("Hi."),
        parts.audio,
    ]
    assert prompt.reference_start == 2
    assert np.array_equal(prompt.reference_codes, CODES)


def test_a_transcript_stands_before_the_rows(tmp_path: Path) -> None:
    preprocessor, tokenizer = make(tmp_path)
    reference = Reference(codes=CODES, text="I said this.")
    prompt = preprocessor.prepare(SpeechRequest("r", "Hi.", reference=reference), None)
    parts = tokenizer.structure
    before = [parts.tts, parts.ref_text, *tokenizer.encode("I said this."), parts.ref_audio]
    assert prompt.token_ids.tolist() == [*before, parts.text, *tokenizer.encode("Hi."), parts.audio]
    assert prompt.reference_start == len(before)


hostile = st.lists(st.one_of(st.text(max_size=6), st.sampled_from(SPECIAL_TOKENS))).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=hostile.filter(lambda text: text.strip()), transcript=hostile, check_tags=st.booleans())
def test_no_text_changes_the_layout(tmp_path: Path, text: str, transcript: str, check_tags: bool) -> None:
    reference = Reference(codes=CODES, text=transcript)
    try:
        prompt = prepare(tmp_path, text, reference=reference, check_tags=check_tags)
    except RequestError:
        assert check_tags
        return
    ids = TokenizerFile(tmp_path).ids
    layout = ["<|tts|>", "<|ref_text|>", "<|ref_audio|>", "<|text|>", "<|audio|>"]
    if not transcript.strip():
        layout.remove("<|ref_text|>")
    structural = {id: name for name, id in ids.items() if name not in CONTROL_TAGS}
    assert [structural[id] for id in prompt.token_ids.tolist() if id in structural] == layout
    assert prompt.token_ids[prompt.reference_start - 1] == ids["<|ref_audio|>"]


@pytest.mark.parametrize("transcript", ["", "  \n"])
def test_a_blank_transcript_is_none(tmp_path: Path, transcript: str) -> None:
    with_blank = prepare(tmp_path, reference=Reference(codes=CODES, text=transcript))
    without = prepare(tmp_path, reference=Reference(codes=CODES))
    assert np.array_equal(with_blank.token_ids, without.token_ids)


def test_an_older_checkpoint_clones_without_the_transcript_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        preprocessor, tokenizer = make(tmp_path, drop_tokens=("<|ref_text|>",))
    assert "transcripts of references will not be used" in caplog.text
    reference = Reference(codes=CODES, text="I said this.")
    prompt = preprocessor.prepare(SpeechRequest("r", "Hi.", reference=reference), None)
    assert prompt.token_ids[1] == tokenizer.structure.ref_audio


def test_spaces_and_case_of_the_text_reach_the_model(tmp_path: Path) -> None:
    _, tokenizer = make(tmp_path)
    prompt = prepare(tmp_path, "  Hello World ")
    assert prompt.token_ids[2:-1].tolist() == tokenizer.encode("  Hello World ")


def test_structural_tokens_in_a_text_are_refused_or_read_as_text(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no control tag"):
        prepare(tmp_path, "Hi<|audio|>there")
    prompt = prepare(tmp_path, "Hi<|audio|>there<|im_end|>", check_tags=False)
    assert [t for t in spelled(tmp_path, prompt) if t.startswith("<|")] == [
        "<|tts|>",
        "<|text|>",
        "<|audio|>",
    ]


def test_structural_tokens_in_a_transcript_are_refused_or_read_as_text(tmp_path: Path) -> None:
    reference = Reference(codes=CODES, text="Hi<|ref_audio|>there")
    with pytest.raises(RequestError, match="no control tag") as caught:
        prepare(tmp_path, reference=reference)
    assert caught.value.param == "references"
    prompt = prepare(tmp_path, reference=reference, check_tags=False)
    tokens = [token for token in spelled(tmp_path, prompt) if token.startswith("<|")]
    assert tokens == ["<|tts|>", "<|ref_text|>", "<|ref_audio|>", "<|text|>", "<|audio|>"]


def test_control_tags_pass_as_single_ids(tmp_path: Path) -> None:
    prompt = prepare(tmp_path, "<|emotion:awe|>Oh!<|prosody:pause|>")
    ids = TokenizerFile(tmp_path).ids
    assert prompt.token_ids[2] == ids["<|emotion:awe|>"]
    assert prompt.token_ids[-2] == ids["<|prosody:pause|>"]

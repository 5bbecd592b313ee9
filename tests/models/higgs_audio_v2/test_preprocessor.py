"""The turns of a prompt are those of the model's training, and no text changes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from stentor.errors import CheckpointError, RequestError
from stentor.models.higgs_audio.limits import Limits
from stentor.models.higgs_audio.tokens import TokenizerFile
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_v2.config import SAMPLING
from stentor.models.higgs_audio_v2.preprocessor import V2Preprocessor, V2Tokenizer
from stentor.request import BEGIN_ROW, END_ROW, Prompt, Reference, SpeechRequest
from tests.v2_checkpoints import EVENTS, STRUCTURE, tokenizer

CODES = np.arange(80).reshape(10, 8)
QUIET = "\nAudio is recorded from a quiet room."
SYSTEM = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nGenerate audio following instruction."
    "\n\n<|scene_desc_start|>{}\n<|scene_desc_end|><|eot_id|>"
)
USER = "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
ASSISTANT = "<|start_header_id|>assistant<|end_header_id|>\n\n<|audio_out_bos|>"
REFERENCE = "{begin}R{end}"


def prepare(folder: Path, text: str, waveform: Any = None, **fields: Any) -> Prompt:
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    limits = Limits(CodecConfig.read(), 4096, 30.0, SAMPLING)
    preprocessor = V2Preprocessor(V2Tokenizer(TokenizerFile(folder), 10_000), limits)
    return preprocessor.prepare(SpeechRequest("r", text, **fields), waveform)


def spelled(folder: Path, prompt: Prompt) -> str:
    """The prompt as one string, rows by name: {begin}, {end}, and R where the reference belongs."""
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pieces, start = [], 0
    ids = prompt.token_ids.tolist()
    for place, id in enumerate([*ids, 0]):
        if prompt.reference_start == place > 0:
            pieces += [library.decode(ids[start:place], skip_special_tokens=False), "R"]
            start = place
        if place == len(ids) or id < 0:
            pieces.append(library.decode(ids[start:place], skip_special_tokens=False))
            pieces.append({BEGIN_ROW: "{begin}", END_ROW: "{end}"}.get(id, ""))
            start = place + 1
    return "".join(pieces)


def test_zero_shot_is_a_turn_to_be_answered(tmp_path: Path) -> None:
    prompt = prepare(tmp_path, "Hello there")
    turns = SYSTEM.format(QUIET) + USER.format("Hello there.") + ASSISTANT
    assert spelled(tmp_path, prompt) == turns + "{begin}"
    assert prompt.reference_start == 0
    # Nothing hangs on how the pieces are cut: the file's own tokenizer says the same of the whole.
    whole = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(turns, add_special_tokens=False)
    assert prompt.token_ids[:-1].tolist() == whole.ids


def test_instructions_are_the_scene(tmp_path: Path) -> None:
    prompt = prepare(tmp_path, "Hello.", instructions="A cave.")
    assert spelled(tmp_path, prompt).startswith(SYSTEM.format("\nA cave.") + USER.format("Hello."))


def test_a_reference_with_a_transcript_is_a_turn_of_its_own(tmp_path: Path) -> None:
    prompt = prepare(tmp_path, "Hello.", reference=Reference(codes=CODES, text=" I said this. "))
    spoken = ASSISTANT + REFERENCE + "<|audio_eos|><|eot_id|>"
    turns = SYSTEM.format(QUIET) + USER.format("I said this.") + spoken + USER.format("Hello.") + ASSISTANT
    assert spelled(tmp_path, prompt) == turns + "{begin}"
    assert np.array_equal(prompt.reference_codes, CODES)
    assert prompt.sampling.max_new_tokens == 2048


@pytest.mark.parametrize("scene", [None, "A cave."])
def test_a_reference_without_words_speaks_in_the_scene(tmp_path: Path, scene: str | None) -> None:
    reference = Reference(audio=b"a recording")
    prompt = prepare(tmp_path, "Hello.", np.ones(24500, np.float32), reference=reference, instructions=scene)
    described = (
        (f"\n{scene}" if scene else QUIET) + "\n\nSPEAKER0: <|audio_bos|>" + REFERENCE + "<|audio_eos|>"
    )
    turns = SYSTEM.format(described) + USER.format("Hello.") + ASSISTANT
    assert spelled(tmp_path, prompt) == turns + "{begin}"
    assert prompt.reference_waveform is not None
    assert len(prompt.reference_waveform) == 26 * 960


def test_rows_of_begin_and_end_count_in_the_context(tmp_path: Path) -> None:
    around = len(prepare(tmp_path, "x").token_ids) - 1
    assert prepare(tmp_path, "x" * (2048 - around)).sampling.max_new_tokens == 2048
    assert prepare(tmp_path, "x" * (2049 - around)).sampling.max_new_tokens == 2047
    cloned = prepare(tmp_path, "x" * (2048 - around), reference=Reference(codes=CODES, text="x"))
    assert cloned.sampling.max_new_tokens == 4096 - len(cloned.token_ids) - 17


hostile = st.lists(st.one_of(st.text(max_size=6), st.sampled_from(STRUCTURE))).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=hostile.filter(str.strip), transcript=hostile, scene=hostile)
def test_no_text_changes_the_turns(tmp_path: Path, text: str, transcript: str, scene: str) -> None:
    def tokens(prompt: Prompt) -> list[int]:
        structural = {entry["id"] for entry in tokenizer()["added_tokens"] if entry["content"] in STRUCTURE}
        return [id for id in prompt.token_ids.tolist() if id in structural or id < 0]

    said = "words" if transcript.strip() else ""
    plain = prepare(tmp_path, "Hello.", reference=Reference(codes=CODES, text=said))
    reference = Reference(codes=CODES, text=transcript)
    given = prepare(tmp_path, text, reference=reference, instructions=scene, check_tags=False)
    # A turn that holds an empty scene has none.
    without = prepare(
        tmp_path, "Hello.", reference=Reference(codes=CODES, text=said), instructions="<|scene_desc_start|>"
    )
    assert tokens(given) in (tokens(plain), tokens(without))


def test_what_looks_like_a_tag_is_refused_unless_it_is_meant(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="this model knows none"):
        prepare(tmp_path, "<|emotion:awe|>Oh!")
    with pytest.raises(RequestError, match="no control tag") as caught:
        prepare(tmp_path, "Oh!", reference=Reference(codes=CODES, text="<|eot_id|>"))
    assert caught.value.param == "references"


def test_sounds_are_single_tokens(tmp_path: Path) -> None:
    prompt = prepare(tmp_path, "[laugh] Oh!")
    ids = TokenizerFile(tmp_path).ids
    assert [id for id in prompt.token_ids.tolist() if id in {ids[token] for token in EVENTS}] == [
        ids["<SE>"],
        ids["</SE>"],
    ]


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    content = tokenizer()
    content["added_tokens"] = [e for e in content["added_tokens"] if e["content"] != "<|audio_out_bos|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"<\|audio_out_bos\|> are missing"):
        V2Tokenizer(TokenizerFile(tmp_path), 10_000)

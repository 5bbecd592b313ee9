from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from stentor.audio.shape import Shape
from stentor.errors import NotFoundError, RequestError, TooLargeError
from stentor.request import ModelInfo, SamplingParams
from stentor.server.bodies import SpeechBody
from stentor.server.protocol import OPENAI_MODELS, Delivery, Order, Reader
from stentor.voices import VoiceStore
from tests.server.fakes import INFO, config, voices

CODES = [[1] * 8, [2] * 8]


def read(info: ModelInfo = INFO, store: VoiceStore | None = None, **body: Any) -> Order:
    reader = Reader(info, store or voices(), config(max_input_chars=40))
    return reader.read(SpeechBody.model_validate({"input": "Hello.", **body}), "id-1")


def test_the_defaults_are_those_of_the_checkpoint() -> None:
    order = read()
    request = order.request
    assert (order.id, request.text) == ("id-1", "Hello.")
    assert (order.format, order.delivery, order.warnings, order.shape) == ("wav", Delivery.FILE, (), Shape())
    assert request.reference is None
    assert request.runaway_guard
    assert request.check_tags
    assert not request.stream
    assert request.initial_chunk_frames is None
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_new_tokens) == (None,) * 4


def test_every_field_may_be_null_but_the_input() -> None:
    names = [name for name in SpeechBody.model_fields if name != "input"]
    order = read(**dict.fromkeys(names))
    assert order.format == "wav"
    assert order.request.runaway_guard
    assert order.request.check_tags


def test_every_value_arrives_where_it_belongs() -> None:
    order = read(
        temperature=0.5,
        top_p=0.9,
        top_k=30,
        seed=404,
        max_new_tokens=100,
        repetition_penalty=1.2,
        runaway_guard=False,
        check_tags=False,
        initial_codec_chunk_frames=7,
        response_format="opus",
        sample_rate=48_000,
        speed=1.5,
        loudness_lufs=-20,
        trim_silence=False,
    )
    assert order.shape == Shape(1.5, 48_000, -20, False)
    assert order.request.sampling == SamplingParams(0.5, 0.9, 30, 404, 100, 1.2)
    assert (order.request.runaway_guard, order.request.check_tags) == (False, False)
    assert order.request.initial_chunk_frames == 7
    assert (order.format, order.seed) == ("opus", 404)


def test_a_fresh_seed_is_drawn_and_told() -> None:
    seeds = {read().seed for _ in range(20)}
    assert None not in seeds
    assert len(seeds) > 15
    order = read()
    assert order.request.sampling.seed == order.seed


def test_a_seed_of_the_checkpoint_is_left_to_it() -> None:
    fixed = ModelInfo(
        **{
            **{name: getattr(INFO, name) for name in INFO.__struct_fields__},
            "sampling": SamplingParams(seed=1),
        }
    )
    assert read(fixed).seed is None
    assert read(fixed).request.sampling.seed is None


@pytest.mark.parametrize(
    ("body", "delivery"),
    [
        ({}, Delivery.FILE),
        ({"stream": False, "response_format": "pcm"}, Delivery.FILE),
        ({"stream": True}, Delivery.CHUNKS),
        ({"stream": True, "response_format": "mp3"}, Delivery.CHUNKS),
        ({"stream": True, "response_format": "pcm"}, Delivery.RAW),
        ({"stream_format": "sse"}, Delivery.DELTAS),
        ({"stream_format": "sse", "stream": True, "response_format": "pcm"}, Delivery.DELTAS),
        ({"stream_format": "audio"}, Delivery.RAW),
        ({"stream_format": "audio", "stream": True, "response_format": "mp3"}, Delivery.RAW),
        ({"stream_format": "audio", "stream": False}, Delivery.FILE),
    ],
)
def test_how_the_audio_goes_out(body: dict[str, Any], delivery: Delivery) -> None:
    order = read(**body)
    assert order.delivery is delivery
    assert order.request.stream is (delivery is not Delivery.FILE)


# Voices and models


def test_a_voice_by_name_or_as_an_object(tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    np.save(tmp_path / "voices" / "rosa.npy", CODES)
    (tmp_path / "voices" / "rosa.txt").write_text("Rosa.")
    store = voices(tmp_path)
    for voice in ("rosa", {"id": "rosa"}):
        found = read(store=store, voice=voice).request.reference
        assert found is not None
        assert found.text == "Rosa."
    for voice in ("default", "", "alloy", {"id": "marin"}, None):
        assert read(store=store, voice=voice).request.reference is None


def test_an_unknown_voice_is_named() -> None:
    with pytest.raises(NotFoundError, match="no voice 'otto': choose one of default"):
        read(voice="otto")


def test_the_model_may_be_left_out_or_named_as_it_is_served() -> None:
    for name in (None, "", "stentor-test", *OPENAI_MODELS):
        read(model=name)
    with pytest.raises(NotFoundError, match="no model 'gpt-9': this server serves 'stentor-test'") as caught:
        read(model="gpt-9")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_the_served_name_is_the_one_that_is_told() -> None:
    reader = Reader(INFO, voices(), config(served_model_name="aoede"))
    assert reader.served_name == "aoede"
    reader.check_model("aoede")
    reader.check_model("stentor-test")
    with pytest.raises(NotFoundError, match="'aoede'"):
        reader.check_model("gpt-9")


# What cannot be served


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": " \n\t "}, "input"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"speed": 0.2}, "speed"),
        ({"speed": float("nan")}, "speed"),
        ({"sample_rate": 4_000}, "sample_rate"),
        ({"loudness_lufs": 3}, "loudness_lufs"),
        ({"repetition_penalty": 2.1}, "repetition_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        # What no float, and no message to another process, can hold.
        ({"seed": 10**400}, "seed"),
        ({"top_k": 2**64}, "top_k"),
        ({"max_new_tokens": 2**64}, "max_new_tokens"),
    ],
)
def test_values_out_of_range_are_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(**body)
    assert caught.value.param == param


def test_a_text_over_the_limit_is_refused_with_both_numbers() -> None:
    read(input="x" * 40)
    with pytest.raises(TooLargeError, match="41 characters, but at most 40"):
        read(input="x" * 41)
    read(reference_codes=[[1] * 8], reference_text="x" * 40)
    with pytest.raises(TooLargeError, match="reference's text has 41 characters"):
        read(reference_codes=[[1] * 8], reference_text="x" * 41)


def test_what_asks_for_nothing_changes_nothing() -> None:
    plain = read(seed=1)
    for body in (
        {"speed": 1},
        {"speed": None},
        {"language": "English"},
        {"task_type": "Base"},
        {"non_streaming_mode": True},
        {"instructions": " "},
        {"trim_silence": True},
        {"extra_params": {}},
        {"stage_params": {"engine": {}}},
    ):
        order = read(seed=1, **body)
        assert (order.shape, order.format, order.delivery, order.warnings) == (
            *(plain.shape, plain.format, plain.delivery),
            (),
        )
        assert order.request.text == plain.request.text
        assert order.request.sampling == plain.request.sampling


def test_two_orders_of_one_id_are_two_requests() -> None:
    first, second = read(), read()
    assert first.id == second.id == "id-1"
    assert first.request.request_id != second.request.request_id
    assert first.request.request_id.startswith("id-1.")


def test_the_default_format_is_the_settings() -> None:
    reader = Reader(INFO, voices(), config(default_format="mp3"))
    assert reader.read(SpeechBody(input="Hello."), "id-1").format == "mp3"
    assert reader.read(SpeechBody(input="Hello.", response_format="wav"), "id-1").format == "wav"
    pcm = Reader(INFO, voices(), config(default_format="pcm"))
    for named in ("pcm", None):
        body = SpeechBody(input="Hello.", stream=True, response_format=named)
        assert pcm.read(body, "id-1").delivery is Delivery.RAW


def test_only_a_model_that_is_for_it_designs_voices() -> None:
    designs = structs.replace(INFO, clones=False, reads_instructions=True)
    assert read(designs, task_type="VoiceDesign", instructions="An old man.").request.instructions
    for other in (INFO, structs.replace(designs, speakers=("vivian",))):
        with pytest.raises(RequestError, match="VoiceDesign, which is not for this model") as refused:
            read(other, task_type="VoiceDesign")
        assert (refused.value.param, refused.value.code) == ("task_type", "not_for_this_model")


def test_instructions_become_tags_where_they_parse_and_are_never_ignored_in_silence() -> None:
    told = ModelInfo(
        **{
            **{name: getattr(INFO, name) for name in INFO.__struct_fields__},
            "control_tags": ("<|style:whispering|>", "<|prosody:speed_slow|>"),
        }
    )
    order = read(told, instructions="Whisper, slowly.")
    assert order.request.text == "<|style:whispering|> <|prosody:speed_slow|> Hello."
    assert order.warnings == ("instructions are read as <|style:whispering|> <|prosody:speed_slow|>",)
    order = read(told, instructions="Like a pirate.")
    assert order.request.text == "Hello."
    assert order.warnings == ("instructions are ignored: no words in them have a control tag",)
    with pytest.raises(RequestError, match="empty"):
        read(told, input=" ", instructions="Whisper.")


# Each field by itself, as it may be asked for, and not by its default.
ASKED: dict[str, Any] = {
    "voice": "Rosa",
    "speaker": "Rosa",
    "instructions": "Whisper.",
    "response_format": "mp3",
    "sample_rate": 16_000,
    "speed": 2.0,
    "loudness_lufs": -20.0,
    "trim_silence": False,
    "stream": True,
    "stream_format": "sse",
    "references": [{"audio_path": "data:,x"}],
    "reference_codes": [[1] * 8],
    "ref_audio": "data:,x",
    "max_new_tokens": 100,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "repetition_penalty": 1.5,
    "seed": 7,
    "runaway_guard": False,
    "check_tags": False,
    "initial_codec_chunk_frames": 9,
    "language": "English",
}
# What a reference says is asked for together with it; the served model has one name.
WITH_OTHERS = {"input", "model", "reference_text", "ref_text", "extra_params", "stage_params"}
HINTS = {"non_streaming_mode": True, "task_type": "Base"}


def told(reader: Reader, **fields: Any) -> tuple[Any, ...]:
    """All of an order that a caller can tell from another."""
    order = reader.read(SpeechBody.model_validate({"input": "Hello.", "seed": 1, **fields}), "id-1")
    request = structs.replace(order.request, request_id="", reference=None)
    reference = order.request.reference
    codes = None if reference is None or reference.codes is None else reference.codes.tolist()
    voice = reference and (reference.audio, codes, reference.text)
    return request, voice, order.shape, order.format, order.delivery, order.warnings


@pytest.fixture
def rosa(tmp_path: Path) -> Reader:
    store = voices(tmp_path)
    store.add("Rosa", np.arange(16).reshape(2, 8))
    info = structs.replace(INFO, control_tags=("<|style:whispering|>",))
    return Reader(info, store, config())


@pytest.mark.parametrize("name", ASKED)
def test_each_field_has_its_effect_wherever_it_stands(rosa: Reader, name: str) -> None:
    wish = {name: ASKED[name]}
    asked = told(rosa, **wish)
    assert asked != told(rosa)
    for where in ({"extra_params": wish}, {"stage_params": {"tts_engine": wish}}):
        given = {"seed": None} if name == "seed" else {}
        assert told(rosa, **where, **given) == asked


@pytest.mark.parametrize("name", HINTS)
def test_a_hint_changes_nothing_and_its_description_says_that_it_is_one(rosa: Reader, name: str) -> None:
    assert told(rosa, **{name: HINTS[name]}) == told(rosa)
    assert "hint" in (SpeechBody.model_fields[name].description or "")


def test_every_field_is_one_of_these() -> None:
    assert set(SpeechBody.model_fields) == {*ASKED, *WITH_OTHERS, *HINTS}


def test_instructions_go_to_a_model_that_reads_them_as_they_are() -> None:
    reader = structs.replace(INFO, reads_instructions=True)
    order = read(reader, instructions="Whisper, sadly.")
    assert (order.request.text, order.request.instructions) == ("Hello.", "Whisper, sadly.")
    assert order.warnings == ()
    assert read(instructions="Whisper, sadly.").request.instructions is None
    with pytest.raises(TooLargeError, match="the scene has 41 characters, but at most 40") as caught:
        read(reader, instructions="x" * 41)
    assert caught.value.param == "instructions"

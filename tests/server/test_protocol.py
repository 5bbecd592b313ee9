import base64
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from stentor.audio.formats import FORMATS
from stentor.errors import NotFoundError, RequestError, TooLargeError
from stentor.request import ModelInfo, Reference, SamplingParams
from stentor.server.protocol import Delivery, FormatName, Order, Reader, ReferenceBody, SpeechBody
from stentor.voices import VoiceStore
from tests.server.fakes import INFO, config, voices

CODES = [[1] * 8, [2] * 8]


def read(info: ModelInfo = INFO, store: VoiceStore | None = None, **body: Any) -> Order:
    reader = Reader(info, store or voices(), config(max_input_chars=40))
    return reader.read(SpeechBody.model_validate({"input": "Hello.", **body}), "id-1")


def reference(**body: Any) -> Reference:
    found = read(**body).request.reference
    assert found is not None
    return found


def test_the_defaults_are_those_of_the_checkpoint() -> None:
    order = read()
    request = order.request
    assert (request.request_id, request.text) == ("id-1", "Hello.")
    assert (order.format, order.delivery, order.warnings) == ("wav", Delivery.FILE, ())
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
        runaway_guard=False,
        check_tags=False,
        initial_codec_chunk_frames=7,
        response_format="opus",
    )
    assert order.request.sampling == SamplingParams(0.5, 0.9, 30, 404, 100)
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


# References


@pytest.mark.parametrize("key", ["audio_path", "audio", "ref_audio"])
def test_a_recording_in_all_spellings(key: str) -> None:
    assert reference(references=[{key: "a.wav", "text": "Hi."}]) == Reference(audio="a.wav", text="Hi.")


def test_the_short_spelling_of_a_recording() -> None:
    assert reference(ref_audio="a.wav", ref_text="Hi.") == Reference(audio="a.wav", text="Hi.")


def test_data_with_its_media_type_is_a_data_uri() -> None:
    data = base64.b64encode(b"sound").decode()
    assert reference(references=[{"data": data, "media_type": "audio/mpeg"}]).audio == (
        f"data:audio/mpeg;base64,{data}"
    )
    assert reference(references=[{"data": data}]).audio == f"data:;base64,{data}"


def test_codes_with_their_text() -> None:
    for text in ({"reference_text": "Hi."}, {"ref_text": "Hi."}, {"references": [{"text": "Hi."}]}):
        found = reference(reference_codes=CODES, **text)
        assert found.codes is not None
        np.testing.assert_array_equal(found.codes, CODES)
        assert np.issubdtype(found.codes.dtype, np.integer)
        assert (found.audio, found.text) == (None, "Hi.")


def test_the_voice_is_ignored_beside_a_reference() -> None:
    assert reference(voice="nobody", references=[{"audio": "a.wav"}]).audio == "a.wav"


def test_empty_references_are_none() -> None:
    assert read(references=[]).request.reference is None


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"references": [{"audio": "a"}, {"audio": "b"}]}, "references", "2 items"),
        ({"references": [{"audio": "a", "audio_path": "b"}]}, "references", "given twice"),
        ({"references": [{"audio": "a"}], "ref_audio": "b"}, "references", "given twice"),
        ({"ref_audio": "a", "ref_text": "x", "reference_text": "y"}, "reference_text", "given twice"),
        ({"references": [{"audio": "a"}], "reference_codes": CODES}, "reference_codes", "two voices"),
        ({"references": [{}]}, "references", "no audio"),
        ({"references": [{"text": "Hi."}]}, "references", "no audio"),
        ({"reference_text": "Hi."}, "references", "no audio"),
        ({"reference_codes": []}, "reference_codes", "equally many"),
        ({"reference_codes": [[]]}, "reference_codes", "equally many"),
        ({"reference_codes": [[1, 2], [3]]}, "reference_codes", "equally many"),
        ({"reference_codes": [[10**30] * 8]}, "reference_codes", "equally many"),
    ],
)
def test_references_that_contradict_themselves_are_refused(
    body: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        read(**body)
    assert caught.value.param == param


# Voices and models


def test_a_voice_by_name_or_as_an_object(tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    np.save(tmp_path / "voices" / "rosa.npy", CODES)
    (tmp_path / "voices" / "rosa.txt").write_text("Rosa.")
    store = VoiceStore(tmp_path)
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
    for name in (None, "", "stentor-test"):
        read(model=name)
    with pytest.raises(NotFoundError, match="no model 'gpt-9': this server serves 'stentor-test'") as caught:
        read(model="gpt-9")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_the_served_name_is_the_one_that_is_told() -> None:
    reader = Reader(INFO, voices(), config(served_model_name="tts-1"))
    assert reader.served_name == "tts-1"
    reader.check_model("tts-1")
    reader.check_model("stentor-test")
    with pytest.raises(NotFoundError, match="'tts-1'"):
        reader.check_model("tts-2")


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
        ({"speed": 1.5}, "speed"),
        ({"speed": float("nan")}, "speed"),
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


def test_a_speed_of_one_is_no_wish() -> None:
    for speed in (1, 1.0, None):
        assert read(speed=speed, seed=1).request == read(seed=1).request


def test_instructions_are_ignored_but_not_in_silence() -> None:
    assert read(instructions="Whisper.").warnings == ("instructions are ignored",)
    assert read(instructions="").warnings == ()


def test_the_schema_lists_the_formats_that_there_are() -> None:
    assert get_args(FormatName) == tuple(FORMATS)


def test_every_field_is_documented() -> None:
    for body in (SpeechBody, ReferenceBody):
        assert [name for name, field in body.model_fields.items() if not field.description] == []

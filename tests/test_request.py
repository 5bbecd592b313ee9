"""Laws of the records that travel through the pipeline."""

import msgspec
import numpy as np
import pytest

from stentor.errors import RequestError
from stentor.request import FinishReason, Reference, SamplingParams, SpeechRequest, Usage


def test_records_are_immutable() -> None:
    request = SpeechRequest("r1", "hello")
    with pytest.raises(AttributeError):
        request.text = "bye"  # type: ignore[misc]


def test_sampling_that_is_not_given_stays_open_for_the_checkpoint() -> None:
    assert msgspec.structs.astuple(SamplingParams()) == (None,) * 6


def test_finish_reasons_are_the_words_of_the_api() -> None:
    assert {str(reason) for reason in FinishReason} == {"stop", "length", "runaway"}


def test_usage_counts_are_plain_integers_on_the_wire() -> None:
    wire = msgspec.json.encode(Usage(prompt_tokens=3, completion_tokens=4))
    assert msgspec.json.decode(wire) == {"prompt_tokens": 3, "completion_tokens": 4}


def test_defaults_are_not_shared_arrays() -> None:
    first, second = SpeechRequest("a", "x"), SpeechRequest("b", "y")
    assert first.reference is None
    assert second.sampling == SamplingParams()
    assert not isinstance(first.sampling.seed, np.ndarray)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", -0.1),
        ("temperature", "warm"),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", float("nan")),
        ("top_k", -1),
        ("repetition_penalty", 0.4),
        ("repetition_penalty", 2.1),
        ("repetition_penalty", float("nan")),
        ("top_k", 2.5),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", True),
        ("max_new_tokens", 0),
        ("max_new_tokens", 2**63),
        pytest.param("top_k", 10**400, id="top_k-huge"),
    ],
)
def test_impossible_sampling_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=name) as caught:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("temperature", 1.3),
        ("top_p", 1),
        ("top_k", 0),
        ("repetition_penalty", 0.5),
        ("repetition_penalty", 2),
        ("seed", 0),
        ("seed", 2**63 - 1),
    ],
)
def test_the_edges_of_sampling_are_allowed(name: str, value: object) -> None:
    assert getattr(SamplingParams(**{name: value}), name) == value  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "   ", "\n\t", None, 7])
def test_a_text_with_nothing_to_say_is_refused(text: object) -> None:
    with pytest.raises(RequestError, match="the text") as caught:
        SpeechRequest("r", text)  # type: ignore[arg-type]
    assert caught.value.param == "input"


@pytest.mark.parametrize("frames", [0, -5, 2.5, "4", 10**30])
def test_a_first_chunk_of_no_number_of_frames_is_refused(frames: object) -> None:
    with pytest.raises(RequestError, match="whole number at least 1") as caught:
        SpeechRequest("r", "hello", initial_chunk_frames=frames)  # type: ignore[arg-type]
    assert caught.value.param == "initial_chunk_frames"


def test_half_a_character_is_refused() -> None:
    with pytest.raises(RequestError, match="half a character at position 3"):
        SpeechRequest("r", "oh \ud83d no")
    with pytest.raises(RequestError, match="half a character"):
        SpeechRequest("r", "oh", language="\ud83d")
    for reference in ({"audio": "http://x/\ud83d"}, {"audio": b"x", "text": "oh \ud83d no"}):
        with pytest.raises(RequestError, match="half a character") as caught:
            Reference(**reference)  # type: ignore[arg-type]
        assert caught.value.param == "references"


def test_a_speaker_of_the_model_has_no_recording() -> None:
    assert Reference(speaker="vivian").audio is None
    for given in ({"audio": b"x"}, {"codes": np.ones((2, 8), int)}):
        with pytest.raises(RequestError, match="two voices"):
            Reference(speaker="vivian", **given)  # type: ignore[arg-type]


def test_records_on_the_wire_are_checked_too() -> None:
    wire = msgspec.json.encode({"temperature": -1.0})
    with pytest.raises(RequestError):
        msgspec.json.decode(wire, type=SamplingParams)

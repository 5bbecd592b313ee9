import base64
import json
import wave
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from stentor.audio.formats import FORMATS, encode_file, to_pcm16
from stentor.audio.load import decode
from stentor.errors import InternalError
from stentor.request import FinishReason
from stentor.server.delivery import Form, make_form
from stentor.server.protocol import Delivery
from tests.server.fakes import FRAME, RATE, USAGE, order, sound, tone

LAST = sound(0.0, finish_reason=FinishReason.LENGTH, usage=USAGE)


def made(delivery: Delivery, format: str) -> Form:
    return make_form(order(delivery=delivery, format=format), RATE)


def told(delivery: Delivery, format: str, seconds: float = 0.5) -> tuple[list[bytes], bytes]:
    """What a form makes of each chunk, and of the end."""
    form = made(delivery, format)
    waveform = tone(seconds)
    pieces = [form.piece(waveform[at : at + FRAME]) for at in range(0, len(waveform), FRAME)]
    return pieces, form.finish(LAST)


def events(data: bytes) -> list[Any]:
    assert data.endswith(b"\n\n")
    lines = data.decode().removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def heard(data: bytes, format: str) -> np.ndarray:
    if format == "pcm":
        return np.frombuffer(data, "<i2") / np.float32(32_767)
    return decode(data, sample_rate_hz=RATE, max_seconds=60)


def like_the_file(data: bytes, format: str) -> bool:
    """The same sound as the whole file; what its headers know of its length may differ."""
    whole = heard(encode_file(tone(0.5), format, RATE), format)
    streamed = heard(data, format)
    # A streamed MP3 cannot say that its start is padding: 1105 samples with LAME.
    streamed = streamed[1_105:][: len(whole)] if format == "mp3" else streamed
    return len(streamed) == len(whole) and bool(np.abs(streamed - whole).max() < 0.05)


@pytest.mark.parametrize("format", FORMATS)
def test_raw_bytes_are_one_file(format: str) -> None:
    pieces, rest = told(Delivery.RAW, format)
    assert like_the_file(b"".join(pieces) + rest, format)


@pytest.mark.parametrize("format", FORMATS)
def test_a_whole_file_comes_at_the_end(format: str) -> None:
    pieces, rest = told(Delivery.FILE, format)
    assert not any(pieces)
    np.testing.assert_array_equal(heard(rest, format), heard(encode_file(tone(0.5), format, RATE), format))


def test_raw_bytes_have_no_words_for_a_failure() -> None:
    assert made(Delivery.RAW, "pcm").failure(InternalError("x")) is None
    assert made(Delivery.FILE, "pcm").failure(InternalError("x")) is None


@pytest.mark.parametrize("format", FORMATS)
def test_deltas_are_slices_of_one_file_and_end_with_the_usage(format: str) -> None:
    pieces, rest = told(Delivery.DELTAS, format)
    *deltas, done = events(b"".join(pieces) + rest)
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    assert all(delta["audio"] for delta in deltas)
    assert like_the_file(b"".join(base64.b64decode(delta["audio"]) for delta in deltas), format)
    assert done == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 12, "output_tokens": 34, "total_tokens": 46},
        "finish_reason": "length",
    }


def test_a_chunk_event_holds_a_whole_small_wav() -> None:
    pieces, rest = told(Delivery.CHUNKS, "wav")
    chunks = [events(piece)[0] for piece in pieces]
    samples = b""
    for index, chunk in enumerate(chunks):
        assert (chunk["id"], chunk["object"], chunk["index"]) == ("speech-id-1", "audio.speech.chunk", index)
        assert chunk["finish_reason"] is None
        assert (chunk["audio"]["format"], chunk["audio"]["sample_rate"]) == ("wav", RATE)
        with wave.open(BytesIO(base64.b64decode(chunk["audio"]["data"]))) as file:
            assert file.getnframes() == min(FRAME, len(tone(0.5)) - index * FRAME)
            samples += file.readframes(file.getnframes())
    assert samples == to_pcm16(tone(0.5))
    final, done = events(rest)
    assert done == "[DONE]"
    assert (final["object"], final["index"], final["audio"]) == ("audio.speech.chunk", len(chunks), None)
    assert final["finish_reason"] == "length"
    assert final["sample_rate"] == RATE
    assert final["usage"] == {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}


@pytest.mark.parametrize("format", ["pcm", "mp3", "opus", "aac", "flac"])
def test_chunk_events_of_other_formats_are_slices_of_one_file(format: str) -> None:
    pieces, rest = told(Delivery.CHUNKS, format)
    chunks = [event for event in events(b"".join(pieces) + rest)[:-1] if event["audio"]]
    assert {chunk["audio"]["format"] for chunk in chunks} == {format}
    assert like_the_file(b"".join(base64.b64decode(chunk["audio"]["data"]) for chunk in chunks), format)


@pytest.mark.parametrize("delivery", [Delivery.DELTAS, Delivery.CHUNKS])
def test_a_failure_is_an_event_with_openais_error_object(delivery: Delivery) -> None:
    data = made(delivery, "wav").failure(InternalError("a worker died"))
    assert data is not None
    assert events(data)[0]["error"]["message"] == "a worker died"
    assert events(data)[0]["error"]["type"] == "server_error"


def test_unknown_usage_is_left_out_or_null() -> None:
    last = sound(0.0, finish_reason=FinishReason.STOP)
    assert b"usage" not in made(Delivery.DELTAS, "wav").finish(last)
    assert b'"usage":null' in made(Delivery.CHUNKS, "wav").finish(last)

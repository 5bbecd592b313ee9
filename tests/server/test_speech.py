import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import numpy as np
import pytest

from stentor.audio.formats import FORMATS, to_pcm16
from stentor.audio.load import decode
from stentor.audio.shape import Shape
from stentor.errors import InternalError
from stentor.request import FinishReason, SpeechRequest
from tests.server.conftest import Running
from tests.server.fakes import RATE, USAGE, Act, say, sound, tone
from tests.sound import shape_whole

Serve = Callable[..., Running]


def heard(response: httpx2.Response, format: str) -> np.ndarray:
    """What a player gets, at the model's rate."""
    data = response.content
    if "event-stream" in response.headers["Content-Type"]:
        events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
        data = b"".join(base64.b64decode(event.get("audio") or b"") for event in events)
    if format == "pcm":
        return np.frombuffer(data, "<i2") / np.float32(32_767)
    return decode(data, sample_rate_hz=RATE, max_seconds=60)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "stream", [{}, {"stream": True, "stream_format": "audio"}, {"stream_format": "sse"}], ids=str
)
def test_speed_is_heard_in_every_format_and_form(serve: Serve, format: str, stream: dict[str, Any]) -> None:
    response = serve(say(1.0)).speech(speed=2.0, response_format=format, **stream)
    waveform = heard(response, format)
    # What a codec puts before and behind, at most.
    assert 0 <= len(waveform) - RATE // 2 < 3_000
    if format in ("pcm", "wav", "flac"):
        expected = shape_whole(tone(1.0), Shape(speed=2.0), RATE)
        np.testing.assert_allclose(waveform, expected, atol=1e-3)


@pytest.mark.parametrize("stream", [False, True])
def test_another_rate_is_told_and_exact(serve: Serve, stream: bool) -> None:
    response = serve(say(0.5)).speech(sample_rate=16_000, response_format="pcm", stream=stream)
    assert response.headers["X-Sample-Rate"] == "16000"
    assert len(response.content) == 2 * 8_000
    wav = serve(say(0.5)).speech(sample_rate=44_100).content
    assert int.from_bytes(wav[24:28], "little") == 44_100
    assert len(wav) == 44 + 2 * 22_050


def test_a_silent_end_is_left_out_unless_it_is_wanted(serve: Serve) -> None:
    def script(_: SpeechRequest) -> Iterator[Act]:
        yield sound(0.5)
        yield from [sound(0.0), type(sound())(np.zeros(RATE, np.float32), RATE)]
        yield sound(0.0, finish_reason=FinishReason.STOP, usage=USAGE)

    server = serve(script)
    assert len(server.speech(response_format="pcm").content) == 2 * (RATE // 2 + 2_400)
    assert len(server.speech(response_format="pcm", trim_silence=False).content) == 3 * RATE


def test_the_outcome_of_a_raw_stream_can_be_asked_for_right_after(serve: Serve) -> None:
    server = serve(say(0.5, finish_reason=FinishReason.RUNAWAY))
    response = server.speech(stream=True, response_format="pcm", seed=7)
    outcome = server.http.get(f"/v1/audio/speech/{response.headers['X-Request-Id']}").json()
    assert (outcome["status"], outcome["finish_reason"], outcome["seed"]) == ("done", "runaway", 7)
    assert (outcome["prompt_tokens"], outcome["completion_tokens"]) == (12, 34)


def test_the_outcome_says_that_a_stream_broke(serve: Serve) -> None:
    server = serve(lambda _: [sound(0.1), 0.05, InternalError("a worker died")])
    with pytest.raises(httpx2.RemoteProtocolError):
        server.http.post(
            "/v1/audio/speech",
            json={"input": "Hi.", "stream": True, "response_format": "pcm"},
            headers={"X-Request-Id": "mine-1"},
        )
    outcome = server.http.get("/v1/audio/speech/mine-1").json()
    assert (outcome["status"], outcome["error"]["message"]) == ("error", "a worker died")


def test_nothing_is_known_of_a_request_that_never_was(serve: Serve) -> None:
    response = serve().http.get("/v1/audio/speech/nobody")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "request_not_found")


def test_instructions_are_spoken_as_tags_and_told(serve: Serve) -> None:
    server = serve()
    answer = server.speech(instructions="Sing.", input="La.")
    assert server.pipeline.requests[-1].text == "La."  # this fake model knows no such tag
    assert "ignored" in answer.headers["X-Stentor-Warning"]


def test_what_listens_is_said_not_to_be_here(serve: Serve) -> None:
    for path in ("/v1/audio/transcriptions", "/v1/audio/translations"):
        response = serve().http.post(path, files={"file": b"x"})
        assert response.status_code == 404
        assert "does not listen" in response.json()["error"]["message"]


def test_whole_is_streamed_for_every_shape(serve: Serve) -> None:
    server = serve(say(0.8))
    for shape in ({"speed": 0.8}, {"speed": 3.0, "sample_rate": 8_000}, {"trim_silence": False}):
        whole = server.speech(response_format="pcm", **shape).content
        assert server.speech(response_format="pcm", stream=True, **shape).content == whole
        assert len(whole) % 2 == 0
    assert server.speech(response_format="pcm").content == to_pcm16(tone(0.8))

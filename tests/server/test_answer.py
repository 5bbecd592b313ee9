import base64
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

from stentor.audio.formats import FORMATS, content_type, to_pcm16
from stentor.audio.load import decode
from stentor.errors import InternalError, RequestError
from stentor.request import Audio, FinishReason, SpeechRequest
from stentor.server import delivery
from tests.server.conftest import Running
from tests.server.fakes import FRAME, RATE, USAGE, Act, Script, say, sound, tone

Serve = Callable[..., Running]

# Every form of a stream, as a request asks for it.
STREAMS: list[dict[str, Any]] = [
    {"stream": True},
    {"stream": True, "response_format": "mp3"},
    {"stream": True, "response_format": "pcm"},
    {"stream_format": "sse"},
    {"stream_format": "sse", "response_format": "opus"},
    {"stream": True, "stream_format": "audio", "response_format": "wav"},
    {"stream": True, "stream_format": "audio", "response_format": "flac"},
]


def by_form(body: dict[str, Any]) -> str:
    return "-".join(str(value) for value in body.values())


def samples(data: bytes, format: str) -> int:
    return len(data) // 2 if format == "pcm" else len(decode(data, sample_rate_hz=RATE, max_seconds=60))


def failing(error: Exception, after: int = 0) -> Script:
    """Hands out so many chunks, then fails."""

    def script(_: SpeechRequest) -> Iterator[Act]:
        yield from [sound(0.1)] * after
        yield 0.05
        yield error

    return script


def endless(_: SpeechRequest) -> Iterator[Act]:
    while True:
        yield sound(0.5)
        yield 0.01


def silent_until(event: threading.Event) -> Script:
    def script(_: SpeechRequest) -> Iterator[Act]:
        event.wait(10)
        yield sound(0.1, finish_reason=FinishReason.STOP, usage=USAGE)

    return script


# Whole files


@pytest.mark.parametrize("format", FORMATS)
def test_a_whole_file_in_every_format(serve: Serve, format: str) -> None:
    response = serve(say(0.5)).speech(response_format=format)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == content_type(format)
    assert int(response.headers["Content-Length"]) == len(response.content)
    assert 0 <= samples(response.content, format) - RATE // 2 < 3_000


def test_a_wav_is_the_default_and_has_its_true_size(serve: Serve) -> None:
    data = serve(say(0.5)).speech().content
    assert data[:4] == b"RIFF"
    assert struct.unpack_from("<I", data, 40)[0] == len(data) - 44 == RATE
    assert data[44:] == to_pcm16(tone(0.5))


@pytest.mark.parametrize("reason", FinishReason)
def test_the_headers_say_how_it_ended(serve: Serve, reason: FinishReason) -> None:
    headers = serve(say(0.5, finish_reason=reason)).speech(seed=7).headers
    assert headers["X-Finish-Reason"] == reason
    assert (headers["X-Prompt-Tokens"], headers["X-Completion-Tokens"]) == ("12", "34")
    assert (headers["X-Sample-Rate"], headers["X-Seed"]) == (str(RATE), "7")
    assert len(headers["X-Request-Id"]) == 32


def test_the_seed_that_was_drawn_is_told(serve: Serve) -> None:
    server = serve()
    told = int(server.speech().headers["X-Seed"])
    assert server.pipeline.requests[0].sampling.seed == told


def test_the_ids_of_request_and_answer_are_one(serve: Serve) -> None:
    server = serve()
    told = server.speech().headers["X-Request-Id"]
    assert server.pipeline.requests[0].request_id.startswith(f"{told}.")


def test_ignored_instructions_are_said_to_be_ignored(serve: Serve) -> None:
    server = serve()
    warning = server.speech(instructions="Whisper.").headers["X-Stentor-Warning"]
    assert warning.startswith("instructions are ignored")
    assert "X-Stentor-Warning" not in server.speech().headers


# Streams


@pytest.mark.parametrize("body", STREAMS, ids=by_form)
def test_first_bytes_come_before_the_generation_ends(serve: Serve, body: dict[str, Any]) -> None:
    go_on = threading.Event()

    def script(request: SpeechRequest) -> Iterator[Act]:
        yield sound(0.5)
        assert go_on.wait(10), "the first bytes never came"
        yield sound(0.1, finish_reason=FinishReason.STOP, usage=USAGE)

    server = serve(script)
    with server.http.stream("POST", "/v1/audio/speech", json={"input": "Hi.", **body}) as response:
        assert response.status_code == 200
        pieces = response.iter_raw()
        first = next(pieces)
        assert first
        go_on.set()
        rest = b"".join(pieces)
    assert rest


def test_streamed_pcm_is_the_same_audio(serve: Serve) -> None:
    server = serve(say(0.5, chunk=777))
    response = server.speech(stream=True, response_format="pcm")
    assert response.content == server.speech(response_format="pcm").content == to_pcm16(tone(0.5))
    headers = response.headers
    assert (headers["X-Sample-Rate"], headers["X-Channels"], headers["X-Bit-Depth"]) == ("24000", "1", "16")
    assert headers["Content-Type"] == "audio/pcm"


@pytest.mark.parametrize("format", FORMATS)
def test_a_raw_stream_of_every_format_is_a_valid_file(serve: Serve, format: str) -> None:
    response = serve(say(0.5)).speech(stream=True, stream_format="audio", response_format=format)
    assert response.headers["Content-Type"] == content_type(format)
    assert 0 <= samples(response.content, format) - RATE // 2 < 3_000


def test_the_events_of_the_cookbook(serve: Serve) -> None:
    response = serve(say(0.5, finish_reason=FinishReason.STOP)).speech(stream=True)
    assert response.headers["Content-Type"].startswith("text/event-stream")
    lines = [line for line in response.text.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    *chunks, final = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    sound = b"".join(base64.b64decode(chunk["audio"]["data"])[44:] for chunk in chunks)
    assert sound == to_pcm16(tone(0.5))
    assert {chunk["finish_reason"] for chunk in chunks} == {None}
    assert (final["audio"], final["finish_reason"]) == (None, "stop")
    assert final["usage"]["total_tokens"] == 46


def test_the_events_of_openai(serve: Serve) -> None:
    response = serve(say(0.5)).speech(stream_format="sse", response_format="mp3")
    events = [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line]
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    file = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert 0 <= samples(file, "mp3") - RATE // 2 < 3_000
    assert events[-1]["type"] == "speech.audio.done"
    assert events[-1]["usage"] == {"input_tokens": 12, "output_tokens": 34, "total_tokens": 46}


def test_a_slow_encoder_does_not_hold_up_others(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = threading.Event()
    release = threading.Event()

    class SlowEncoder(delivery.Encoder):
        def encode(self, waveform: np.ndarray) -> bytes:
            encoding.set()
            release.wait(10)
            return super().encode(waveform)

    monkeypatch.setattr(delivery, "Encoder", SlowEncoder)
    server = serve(say(0.2))
    wanted = {"stream_format": "sse", "response_format": "mp3"}
    caller = threading.Thread(target=server.speech, kwargs=wanted)
    caller.start()
    assert encoding.wait(5)
    with httpx2.Client(base_url=server.url, timeout=5, trust_env=False) as other:
        assert other.get("/health").status_code == 200
    release.set()
    caller.join(5)


# Failures


@pytest.mark.parametrize("body", [{}, *STREAMS], ids=by_form)
def test_a_failure_before_the_first_audio_is_a_real_status(serve: Serve, body: dict[str, Any]) -> None:
    refused = serve(failing(RequestError("the reference is silent", param="references"))).speech(**body)
    assert refused.status_code == 400
    assert refused.json()["error"] == {
        "message": "the reference is silent",
        "type": "invalid_request_error",
        "param": "references",
        "code": None,
    }
    broken = serve(failing(InternalError("a worker died"))).speech(**body)
    assert broken.status_code == 500
    assert broken.json()["error"]["type"] == "server_error"


def test_a_whole_file_that_fails_late_is_still_a_real_status(serve: Serve) -> None:
    assert serve(failing(InternalError("a worker died"), after=3)).speech().status_code == 500


@pytest.mark.parametrize("body", [{}, *STREAMS], ids=by_form)
@pytest.mark.parametrize(
    "acts", [[], [sound(0.0)], [sound(0.0), sound(0.0, finish_reason=FinishReason.STOP)]], ids=len
)
def test_no_sound_is_an_error_and_no_empty_file(serve: Serve, body: dict[str, Any], acts: list[Act]) -> None:
    response = serve(lambda _: acts).speech(**body)
    assert response.status_code == 500
    assert "no sound" in response.json()["error"]["message"]


def test_samples_that_are_no_numbers_are_an_error(serve: Serve) -> None:
    bad = Audio(np.full(FRAME, np.nan, np.float32), RATE, finish_reason=FinishReason.STOP)
    for body in ({}, {"stream": True}):
        assert serve(lambda _: [bad]).speech(**body).status_code == 500


@pytest.mark.parametrize("format", ["pcm", "mp3", "wav"])
def test_a_raw_stream_that_fails_late_breaks_instead_of_ending(serve: Serve, format: str) -> None:
    server = serve(failing(InternalError("a worker died"), after=2))
    with pytest.raises(httpx2.RemoteProtocolError, match="incomplete"):
        server.speech(stream=True, stream_format="audio", response_format=format)
    assert server.http.get("/health").status_code == 200


@pytest.mark.parametrize("body", [{"stream": True}, {"stream_format": "sse"}], ids=by_form)
def test_events_that_fail_late_end_with_an_error(serve: Serve, body: dict[str, Any]) -> None:
    response = serve(failing(InternalError("a worker died"), after=2)).speech(**body)
    assert response.status_code == 200
    events = [line for line in response.text.splitlines() if line and line != "data: [DONE]"]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["message"] == "a worker died"
    assert "speech.audio.done" not in response.text
    assert '"finish_reason":"' not in response.text


def test_a_defect_of_ours_is_a_500_that_tells_nothing_but_where_to_look(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(delivery.ChunkEvents, "piece", defect)
    response = serve(say(0.1)).speech(stream=True)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["X-Request-Id"]


def test_a_full_house_is_503_with_a_time_to_come_back(serve: Serve) -> None:
    release = threading.Event()
    server = serve(silent_until(release), max_requests=1)
    first = threading.Thread(target=server.speech)
    first.start()
    server.pipeline.wait_until(lambda: bool(server.pipeline.open))
    with httpx2.Client(base_url=server.url, trust_env=False) as other:
        refused = other.post("/v1/audio/speech", json={"input": "Me too."})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "3")
    assert refused.json()["error"]["code"] == "overloaded"
    release.set()
    first.join(5)
    assert server.metric('stentor_speech_requests_total{finish_reason="",outcome="overloaded"}') == 1


# Readers who leave


def ask(server: Running, path: str = "/v1/audio/speech", **body: Any) -> socket.socket:
    """Send a request on a socket of its own, with little room for what is not read, and read nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    connection.connect(("127.0.0.1", server.port))
    data = json.dumps(body if "items" in body else {"input": "Hello.", **body}).encode()
    head = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(f"POST {path} HTTP/1.1\r\n{head}".encode() + data)
    return connection


@pytest.mark.parametrize("body", [{}, *STREAMS], ids=by_form)
def test_who_leaves_while_it_speaks_frees_the_place_at_once(serve: Serve, body: dict[str, Any]) -> None:
    server = serve(endless)
    connection = ask(server, **body)
    if body:
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    server.pipeline.wait_until(lambda: bool(server.pipeline.open))
    connection.close()
    assert server.pipeline.wait_until(lambda: not server.pipeline.open) < 1.0
    server.pipeline.wait_until(lambda: server.pipeline.aborted_early == 1)
    aborted = 'stentor_speech_requests_total{finish_reason="",outcome="aborted"}'
    server.pipeline.wait_until(lambda: server.metric(aborted) == 1)
    assert server.metric("stentor_speech_in_flight") == 0


@pytest.mark.parametrize("body", [{}, {"stream": True}], ids=by_form)
def test_who_leaves_before_the_first_audio_frees_the_place_at_once(
    serve: Serve, body: dict[str, Any]
) -> None:
    release = threading.Event()
    server = serve(silent_until(release))
    connection = ask(server, **body)
    server.pipeline.wait_until(lambda: bool(server.pipeline.open))
    connection.close()
    assert server.pipeline.wait_until(lambda: not server.pipeline.open) < 1.0
    release.set()


@pytest.mark.parametrize(
    "body", [{}, {"stream": True}, {"stream": True, "response_format": "pcm"}], ids=by_form
)
def test_who_stops_reading_is_given_up_after_the_write_timeout(serve: Serve, body: dict[str, Any]) -> None:
    ends = [sound(60.0, finish_reason=FinishReason.STOP)]
    server = serve(endless if body else lambda _: ends, write_timeout_s=0.3)
    connection = ask(server, **body)
    reason = "" if body else "stop"
    aborted = f'stentor_speech_requests_total{{finish_reason="{reason}",outcome="aborted"}}'
    server.pipeline.wait_until(lambda: server.metric(aborted) == 1, timeout_s=10)
    assert not server.pipeline.open
    connection.close()


def test_a_slow_reader_of_a_file_is_waited_for_as_long_as_he_moves(serve: Serve) -> None:
    server = serve(lambda _: [sound(30.0, finish_reason=FinishReason.STOP)], write_timeout_s=0.4)
    connection = ask(server)
    received = 0
    started_s = time.monotonic()
    while received < 30 * RATE * 2:
        piece = connection.recv(65_536)
        assert piece, f"cut off after {received} bytes"
        received += len(piece)
        time.sleep(0.04)
    assert time.monotonic() - started_s > 0.8
    connection.close()


def test_hundred_readers_who_vanish_leave_nothing(serve: Serve) -> None:
    server = serve(endless, max_requests=200)
    connections = [ask(server, **STREAMS[index % len(STREAMS)]) for index in range(100)]
    server.pipeline.wait_until(lambda: len(server.pipeline.open) == 100, timeout_s=20)
    for connection in connections:
        connection.close()
    server.pipeline.wait_until(lambda: not server.pipeline.open, timeout_s=10)
    server.pipeline.wait_until(lambda: server.metric("stentor_speech_in_flight") == 0)


# Figures


def test_every_request_is_counted_once_by_how_it_ended(serve: Serve) -> None:
    server = serve(say(0.5, finish_reason=FinishReason.RUNAWAY))
    server.speech()
    server.speech(stream=True)
    done = 'stentor_speech_requests_total{finish_reason="runaway",outcome="done"}'
    server.pipeline.wait_until(lambda: server.metric(done) == 2)
    assert server.metric("stentor_audio_seconds_total") == pytest.approx(1.0)
    assert server.metric('stentor_ttfa_seconds_count{streamed="true"}') == 1
    assert server.metric('stentor_ttfa_seconds_count{streamed="false"}') == 1
    assert server.metric("stentor_rtf_count") == 2
    server.pipeline.script = failing(InternalError("x"))
    server.speech()
    failed = 'stentor_speech_requests_total{finish_reason="",outcome="error"}'
    server.pipeline.wait_until(lambda: server.metric(failed) == 1)
    server.pipeline.script = failing(RequestError("the reference is silent"))
    server.speech(stream=True)
    refused = 'stentor_speech_requests_total{finish_reason="",outcome="refused"}'
    server.pipeline.wait_until(lambda: server.metric(refused) == 1)


def test_a_stream_that_came_too_late_for_its_listener_is_counted(serve: Serve) -> None:
    server = serve(say(0.2, chunk=FRAME, delay_s=0.15))
    server.speech(stream=True)
    broken = 'stentor_streams_total{continuity="broken"}'
    server.pipeline.wait_until(lambda: server.metric(broken) == 1)
    assert 1 <= server.metric("stentor_underruns_total") <= 4
    assert server.metric("stentor_underrun_seconds_total") > 0.1


# The real client


@pytest.mark.parametrize("format", FORMATS)
def test_the_openai_client_gets_a_file(serve: Serve, format: Any) -> None:
    client = serve(say(0.5)).openai()
    audio = client.audio.speech.create(
        model="stentor-test", voice="alloy", input="Hello.", response_format=format, speed=1.0
    )
    assert 0 <= samples(audio.content, format) - RATE // 2 < 3_000


def test_the_openai_client_streams(serve: Serve) -> None:
    client = serve(say(0.5, delay_s=0.02)).openai()
    with client.audio.speech.with_streaming_response.create(
        model="stentor-test",
        voice={"id": "default"},
        input="Hello.",
        response_format="pcm",
        extra_body={"stream": True},
    ) as response:
        assert b"".join(response.iter_bytes(1_024)) == to_pcm16(tone(0.5))


@pytest.mark.parametrize(
    ("wrong", "kind", "code", "param"),
    [
        ({"voice": "otto"}, openai.BadRequestError, "voice_not_found", "voice"),
        ({"model": "gpt-9"}, openai.NotFoundError, "model_not_found", "model"),
        ({"input": " "}, openai.BadRequestError, None, "input"),
        ({"speed": 5.0}, openai.BadRequestError, None, "speed"),
        (
            {"extra_body": {"ref_audio_2": "a.wav"}},
            openai.BadRequestError,
            "not_for_this_model",
            "ref_audio_2",
        ),
        ({"extra_body": {"tempo": 1}}, openai.BadRequestError, "unknown_field", "tempo"),
        ({"extra_body": {"top_p": 0}}, openai.BadRequestError, None, "top_p"),
    ],
)
def test_the_openai_client_knows_our_errors(
    serve: Serve, wrong: dict[str, Any], kind: type[openai.APIStatusError], code: str | None, param: str
) -> None:
    client = serve().openai()
    with pytest.raises(kind) as caught:
        client.audio.speech.create(**{"model": "stentor-test", "voice": "alloy", "input": "Hi.", **wrong})
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.request_id


def test_the_openai_client_comes_back_when_the_house_was_full(serve: Serve) -> None:
    server = serve(say(0.2), max_requests=0)
    server.pipeline.retry_after_s = 0.3
    client = server.openai().with_options(max_retries=1)
    opened = threading.Timer(0.3, lambda: setattr(server.pipeline, "max_requests", 1))
    opened.start()
    started_s = time.monotonic()
    client.audio.speech.create(model="stentor-test", voice="alloy", input="Hi.")
    assert time.monotonic() - started_s >= 1.0


def test_the_openai_client_sees_a_late_failure_as_a_broken_answer(serve: Serve) -> None:
    client = serve(failing(InternalError("a worker died"), after=2)).openai()

    answer = client.audio.speech.with_streaming_response.create(
        model="stentor-test",
        voice="alloy",
        input="Hi.",
        response_format="pcm",
        extra_body={"stream": True},
    )
    with pytest.raises(httpx2.RemoteProtocolError), answer as response:
        response.read()


def test_a_server_that_remembers_no_outcome_speaks_all_the_same(serve: Serve) -> None:
    server = serve(say(0.1), outcome_age_s=0)
    assert server.speech().status_code == 200
    assert server.metric("stentor_speech_in_flight") == 0

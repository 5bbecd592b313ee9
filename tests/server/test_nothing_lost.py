"""Hypothesis over texts with tags, and over waveforms, chunks and formats: nothing lost, nothing invented."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from stentor.audio.formats import FORMATS, to_pcm16
from stentor.audio.load import decode
from stentor.request import Audio, FinishReason, SpeechRequest
from stentor.server.wyoming.server import Door
from tests.server import test_realtime as realtime
from tests.server import test_speech_socket as peers
from tests.server.conftest import Running
from tests.server.elevenlabs import test_socket as eleven
from tests.server.fakes import INFO, RATE, USAGE, Act, FakePipeline
from tests.server.wyoming import test_server as wyoming
from tests.server.wyoming.test_server import (
    AsyncTcpClient,
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
)
from tests.server.wyoming.test_server import door as door
from tests.server.wyoming.test_server import pipeline as pipeline

Serve = Callable[..., Running]

several = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# Each example is a conversation over a socket: looking for a smaller one that fails would take minutes.
fewer = settings(several, max_examples=12, phases=(Phase.explicit, Phase.reuse, Phase.generate))

# Tags that exist, tags that do not, pieces of tags, and whatever people write.
texts = (
    st.lists(
        st.sampled_from(
            [*INFO.control_tags, "<|emotion:none|>", "<|", "|>", " ", "Dr. Who?", "\n", "é", "你好"]
        )
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        min_size=1,
        max_size=12,
    )
    .map("".join)
    .filter(str.strip)
)

# Loud to its end, so that a lost end is seen, and of no regular length.
lengths = st.integers(1, 30_000)
cuts = st.lists(st.integers(0, 30_000), max_size=8)
deliveries = st.sampled_from(
    [
        {},
        {"stream": True},
        {"stream_format": "sse"},
        {"stream_format": "audio", "stream": True},
    ]
)


@pytest.fixture
def server(serve: Serve) -> Running:
    """One for all examples of a test."""
    return serve()


@several
@given(text=texts)
def test_a_text_with_tags_reaches_the_model_as_it_was_written(server: Running, text: str) -> None:
    server.pipeline.requests.clear()
    assert server.speech(input=text).status_code == 200
    answer = server.http.post("/v1/audio/speech/batch", json={"items": [{"input": text}]})
    assert answer.json()["succeeded"] == 1
    assert [request.text for request in server.pipeline.requests] == [text, text]


def rising(num_samples: int) -> np.ndarray:
    time_s = np.arange(num_samples) / RATE
    tone = (0.2 + 0.5 * np.arange(num_samples) / num_samples) * np.sin(2 * np.pi * 440 * time_s + 1)
    return tone.astype(np.float32)


def saying(waveform: np.ndarray, cuts: list[int]) -> Callable[[SpeechRequest], Iterator[Act]]:
    def script(_: SpeechRequest) -> Iterator[Act]:
        pieces = np.split(waveform, sorted(cuts))
        for piece in pieces[:-1]:
            yield Audio(piece, RATE)
        yield Audio(pieces[-1], RATE, FinishReason.STOP, USAGE)

    return script


def received(response: httpx2.Response) -> list[bytes]:
    """The files that came: one, or many small ones."""
    if not response.headers["Content-Type"].startswith("text/event-stream"):
        return [response.content]
    events: list[dict[str, Any]] = [
        json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")
    ]
    if "type" in events[0]:
        return [b"".join(base64.b64decode(event.get("audio", "")) for event in events)]
    pieces = [base64.b64decode(event["audio"]["data"]) for event in events if event["audio"]]
    return pieces if events[0]["audio"]["format"] == "wav" else [b"".join(pieces)]


@several
@given(num_samples=lengths, cuts=cuts, delivery=deliveries, format=st.sampled_from(list(FORMATS)))
def test_a_sound_arrives_whole_and_alone(
    server: Running, num_samples: int, cuts: list[int], delivery: dict[str, Any], format: str
) -> None:
    # One or two frames of these are too few for a decoder to know them for what they are.
    assume(num_samples > 2_000 or format not in ("aac", "mp3"))
    waveform = rising(num_samples)
    server.pipeline.script = saying(waveform, cuts)
    response = server.speech(response_format=format, **delivery)
    assert response.status_code == 200
    files = received(response)
    if format == "pcm":
        heard = np.frombuffer(b"".join(files), "<i2") / np.float32(32_767)
    else:
        heard = np.concatenate([decode(file, sample_rate_hz=RATE, max_seconds=60) for file in files])
    if format in ("pcm", "wav", "flac"):
        assert len(heard) == num_samples
        np.testing.assert_allclose(heard, waveform, atol=2 / 32_767)
        return
    # A lossy codec may put silence before and behind, and blur the first and last milliseconds.
    assert 0 <= len(heard) - num_samples < 3_000
    sound = np.flatnonzero(np.abs(heard) > 0.1)
    assert abs((sound[-1] - sound[0] + 1) - num_samples) < 400 if num_samples > 2_000 else True
    energy = float(np.sum(np.square(heard, dtype=np.float64)) / np.sum(np.square(waveform)))
    assert 0.5 < energy < 2 if num_samples > 2_000 else True


Dialect = Callable[[Running, str, list[int]], bytes]


def portions(text: str, cuts: list[int]) -> list[str]:
    """The text in pieces of one to seven characters and a last one, none of them empty."""
    pieces = []
    for cut in cuts:
        pieces.append(text[: cut % 7 + 1])
        text = text[cut % 7 + 1 :]
    return [piece for piece in [*pieces, text] if piece]


def speech_stream(running: Running, text: str, cuts: list[int]) -> bytes:
    """`/v1/audio/speech/stream` of the peers."""
    granularity = ["sentence", "clause", "none"][len(cuts) % 3]
    with peers.session(running, split_granularity=granularity) as socket:
        for piece in portions(text, cuts):
            peers.tell(socket, "input.text", text=piece)
        peers.tell(socket, "input.done")
        return peers.audio(peers.until(socket, "session.done"))


def conversation(running: Running, text: str, _: list[int]) -> bytes:
    """One message of OpenAI's Realtime API."""
    with realtime.session(running) as socket:
        realtime.say_now(socket, text)
        return realtime.audio(realtime.until(socket, "response.done"))


def elevenlabs(ending: str) -> Dialect:
    """One of ElevenLabs' four routes."""

    def ask(running: Running, text: str, _: list[int]) -> bytes:
        address = f"/v1/text-to-speech/default{ending}?output_format=pcm_24000"
        answer = running.http.post(address, json={"text": text})
        assert answer.status_code == 200, answer.text
        if "timestamps" not in ending:
            return answer.content
        told = [json.loads(line) for line in answer.text.splitlines() if line]
        return b"".join(base64.b64decode(one["audio_base64"]) for one in told)

    return ask


def stream_input(running: Running, text: str, cuts: list[int]) -> bytes:
    """ElevenLabs' socket for one text."""
    with eleven.opened(running, "stream-input") as socket:
        for piece in [" ", *portions(text, cuts), ""]:
            eleven.tell(socket, text=piece)
        return eleven.audio(eleven.until_final(socket))


def multi_stream_input(running: Running, text: str, cuts: list[int]) -> bytes:
    """ElevenLabs' socket for several, of which one is opened, written and closed."""
    with eleven.opened(running, "multi-stream-input") as socket:
        for piece in [" ", *portions(text, cuts)]:
            eleven.tell(socket, text=piece, context_id="a")
        eleven.tell(socket, context_id="a", close_context=True)
        return eleven.audio(eleven.until_final(socket, "a"))


ENDINGS = ("", "/stream", "/with-timestamps", "/stream/with-timestamps")
DIALECTS: dict[str, Dialect] = {
    **{
        dialect.__name__: dialect
        for dialect in (speech_stream, conversation, stream_input, multi_stream_input)
    },
    **{f"elevenlabs{ending}": elevenlabs(ending) for ending in ENDINGS},
}


def assert_whole(text: str, requests: list[SpeechRequest], heard: bytes, waveform: np.ndarray) -> None:
    """All was said, once and in order, but for blanks between pieces; and all that was said was heard."""
    said = "".join(request.text for request in requests)
    assert "".join(said.split()) == "".join(text.split())
    assert heard == to_pcm16(waveform) * len(requests)


@pytest.mark.parametrize("dialect", DIALECTS)
@fewer
@given(text=texts, cuts=cuts, num_samples=lengths)
def test_every_dialect_says_the_whole_text_and_hands_on_the_whole_sound(
    server: Running, dialect: str, text: str, cuts: list[int], num_samples: int
) -> None:
    waveform = rising(num_samples)
    server.pipeline.script = saying(waveform, cuts)
    server.pipeline.requests.clear()
    heard = DIALECTS[dialect](server, text, cuts)
    assert_whole(text, server.pipeline.requests, heard, waveform)


@fewer
@given(text=texts, cuts=cuts, num_samples=lengths, at_once=st.booleans())
def test_wyoming_says_the_whole_text_and_hands_on_the_whole_sound(
    door: Door, pipeline: FakePipeline, text: str, cuts: list[int], num_samples: int, at_once: bool
) -> None:
    waveform, heard = rising(num_samples), b""
    pipeline.script = saying(waveform, cuts)
    pipeline.requests.clear()
    portioned = [SynthesizeStart(), *map(SynthesizeChunk, portions(text, cuts)), SynthesizeStop()]

    async def run(client: AsyncTcpClient) -> None:
        nonlocal heard
        for event in [Synthesize(text)] if at_once else portioned:
            await client.write_event(event.event())
        heard = wyoming.audio(await wyoming.until(client, "audio-stop" if at_once else "synthesize-stopped"))

    wyoming.talk(door, run)
    assert_whole(text, pipeline.requests, heard, waveform)

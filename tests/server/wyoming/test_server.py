"""Wyoming through its own client, as Home Assistant uses it."""

import asyncio
import socket
import warnings
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from stentor.audio.formats import to_pcm16
from stentor.errors import RequestError
from stentor.request import SpeechRequest
from stentor.server.admission import Admission
from stentor.server.conversation import Limits
from stentor.server.metrics import Metrics
from stentor.server.outcomes import Outcomes
from stentor.server.protocol import Reader
from stentor.server.utterance import Service
from stentor.server.wyoming.server import Door, serving
from tests.server.fakes import INFO, RATE, Act, FakePipeline, config, say, tone, voices

with warnings.catch_warnings():
    # It wants audioop, which leaves Python.
    warnings.simplefilter("ignore", DeprecationWarning)
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.client import AsyncTcpClient
    from wyoming.error import Error
    from wyoming.event import Event
    from wyoming.info import Describe, Info
    from wyoming.ping import Ping, Pong
    from wyoming.tts import (
        Synthesize,
        SynthesizeChunk,
        SynthesizeStart,
        SynthesizeStop,
        SynthesizeStopped,
        SynthesizeVoice,
    )

TEXT = "The old dog saw the boat. Then it went home. It slept."
LIMITS = Limits(idle_timeout_s=30, write_timeout_s=5, max_message_bytes=1000, max_pending_chars=1000)

Talk = Callable[[AsyncTcpClient], Awaitable[None]]


@pytest.fixture
def pipeline() -> FakePipeline:
    return FakePipeline(say(0.2))


@pytest.fixture
def door(pipeline: FakePipeline) -> Iterator[Door]:
    reader, store = Reader(INFO, voices(), config()), voices()
    with ThreadPoolExecutor(2) as encoders:
        admission = Admission(pipeline)  # type: ignore[arg-type]
        metrics = Metrics(pipeline.stats)
        service = Service(admission, reader, metrics, Outcomes(60), encoders, INFO, write_timeout_s=5)
        yield Door(service, store, LIMITS, "en, de")


def talk(door: Door, say_it: Talk) -> None:
    """Serve, and talk to it, as one program."""

    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        async with serving(door, listener), AsyncTcpClient("127.0.0.1", listener.getsockname()[1]) as client:
            await say_it(client)

    asyncio.run(asyncio.wait_for(run(), 60))


async def until(client: AsyncTcpClient, kind: str) -> list[Event]:
    events: list[Event] = []
    while not events or events[-1].type != kind:
        event = await asyncio.wait_for(client.read_event(), 20)
        assert event is not None, f"no {kind} came, only {[event.type for event in events]}"
        events.append(event)
    return events


def audio(events: list[Event]) -> bytes:
    return b"".join(AudioChunk.from_event(event).audio for event in events if AudioChunk.is_type(event.type))


def kinds(events: list[Event]) -> list[str]:
    return list(dict.fromkeys(event.type for event in events))


def endless(request: SpeechRequest) -> Iterator[Act]:
    while True:
        yield from say(0.2, finish_reason=None, usage=None)(request)  # type: ignore[arg-type]
        yield 0.01


def flood(request: SpeechRequest) -> Iterator[Act]:
    """Much more at once than buffers hold."""
    yield from say(200.0, chunk=RATE)(request)


def test_it_says_who_it_is(door: Door) -> None:
    async def run(client: AsyncTcpClient) -> None:
        await client.write_event(Describe().event())
        (event,) = await until(client, "info")
        (program,) = Info.from_event(event).tts
        assert program.installed
        assert program.supports_synthesize_streaming
        assert [(voice.name, voice.languages) for voice in program.voices] == [("default", ["en", "de"])]
        await client.write_event(Ping("hello").event())
        assert Pong.from_event((await until(client, "pong"))[0]).text == "hello"

    talk(door, run)


def test_a_text_is_its_audio_between_start_and_stop(door: Door, pipeline: FakePipeline) -> None:
    async def run(client: AsyncTcpClient) -> None:
        for voice in (None, SynthesizeVoice(name="alloy"), SynthesizeVoice(language="de")):
            await client.write_event(Synthesize(TEXT, voice).event())
            events = await until(client, "audio-stop")
            assert kinds(events) == ["audio-start", "audio-chunk", "audio-stop"]
            start = AudioStart.from_event(events[0])
            assert (start.rate, start.width, start.channels) == (RATE, 2, 1)
            assert audio(events) == to_pcm16(tone(0.2))

    talk(door, run)
    assert [(said.text, said.language) for said in pipeline.requests] == [
        *((TEXT, None), (TEXT, None), (TEXT, "de"))
    ]


def test_a_text_in_portions_is_spoken_while_it_is_written(door: Door, pipeline: FakePipeline) -> None:
    async def run(client: AsyncTcpClient) -> None:
        await client.write_event(SynthesizeStart().event())
        await client.write_event(SynthesizeChunk("The old dog saw the boat. Then it ").event())
        assert kinds(await until(client, "audio-chunk")) == ["audio-start", "audio-chunk"]
        assert len(pipeline.requests) == 1
        await client.write_event(SynthesizeChunk("went home. It slept.").event())
        # For servers that know no portions, Home Assistant sends the whole text, too.
        await client.write_event(Synthesize(TEXT).event())
        await client.write_event(SynthesizeStop().event())
        events = await until(client, "synthesize-stopped")
        assert kinds(events) == ["audio-chunk", "audio-stop", "synthesize-stopped"]
        assert SynthesizeStopped.is_type(events[-1].type)
        assert AudioStop.is_type(events[-2].type)

    talk(door, run)
    assert [request.text for request in pipeline.requests] == [
        "The old dog saw the boat. ",
        "Then it went home. ",
        "It slept.",
    ]


def test_errors_are_told_and_the_connection_goes_on(door: Door, pipeline: FakePipeline) -> None:
    def script(request: SpeechRequest) -> Iterator[Act]:
        if request.text.startswith("Bad"):
            yield RequestError("a bad text")
        yield from say(0.2)(request)

    async def run(client: AsyncTcpClient) -> None:
        for event, told in [
            (Synthesize("Bad words.").event(), "a bad text"),
            (Synthesize("Hello.", SynthesizeVoice(name="nobody")).event(), "there is no voice"),
            (Event("synthesize", {"text": 5}), "text must be a string"),
            (SynthesizeChunk("Hello.").event(), "synthesize-start comes before"),
            (Synthesize("x" * 1001).event(), "send text as it is needed"),
        ]:
            await client.write_event(event)
            events = await until(client, "audio-stop")
            assert told in Error.from_event(events[0]).text
        while True:
            await client.write_event(Event("transcribe"))  # for another service
            await client.write_event(Synthesize("Hello.").event())
            events = await until(client, "audio-stop")
            if audio(events):
                return

    pipeline.script = script
    talk(door, run)


def test_who_was_refused_at_the_start_is_told_the_stop_as_well(door: Door) -> None:
    """Home Assistant waits for it."""

    async def run(client: AsyncTcpClient) -> None:
        voice = SynthesizeVoice(name="nobody")
        await client.write_event(SynthesizeStart(voice=voice).event())
        await client.write_event(SynthesizeChunk("Hello.").event())
        await client.write_event(Synthesize("Hello.", voice).event())
        await client.write_event(SynthesizeStop().event())
        events = await until(client, "synthesize-stopped")
        assert "there is no voice" in Error.from_event(events[0]).text
        assert not audio(events)

    talk(door, run)


def test_who_leaves_leaves_nothing_behind(door: Door, pipeline: FakePipeline) -> None:
    async def run(client: AsyncTcpClient) -> None:
        await client.write_event(Synthesize("Hello.").event())
        await client.write_event(Synthesize("And again.").event())
        await until(client, "audio-chunk")
        assert pipeline.open
        await client.disconnect()
        while pipeline.open:
            await asyncio.sleep(0.01)

    pipeline.script = endless
    talk(door, run)


def guests() -> int:
    """Connections that are being answered."""
    return sum("welcome" in repr(task.get_coro()) for task in asyncio.all_tasks())


def test_who_does_not_read_is_given_up_and_does_not_hold_up_the_end(
    door: Door, pipeline: FakePipeline
) -> None:
    async def run(write_timeout_s: float, *, given_up: bool) -> None:
        patient = replace(door, limits=replace(LIMITS, write_timeout_s=write_timeout_s))
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            async with serving(patient, listener):
                client.connect(listener.getsockname())
                client.sendall(b'{"type": "synthesize", "data": {"text": "Hello."}}\n')
                while not pipeline.requests:
                    await asyncio.sleep(0.01)
                # It stands still as soon as the buffers are full.
                while given_up and guests():
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.5)
            assert not guests()

    pipeline.script = flood
    asyncio.run(asyncio.wait_for(run(0.2, given_up=True), 15))
    pipeline.requests.clear()
    asyncio.run(asyncio.wait_for(run(60, given_up=False), 15))


def test_a_silent_client_and_a_stranger_are_hung_up_on(door: Door) -> None:
    async def silent(client: AsyncTcpClient) -> None:
        assert "no event came" in Error.from_event((await until(client, "error"))[0]).text
        assert await client.read_event() is None

    talk(replace(door, limits=replace(LIMITS, idle_timeout_s=0.2)), silent)

    async def stranger(client: AsyncTcpClient) -> None:
        assert client._writer is not None
        client._writer.write(b"GET / HTTP/1.1\r\n")
        assert "JSON" in Error.from_event((await until(client, "error"))[0]).text
        assert await client.read_event() is None

    talk(door, stranger)


def test_texts_that_wait_are_bounded(door: Door, pipeline: FakePipeline) -> None:
    async def run(client: AsyncTcpClient) -> None:
        for _ in range(9):
            await client.write_event(Synthesize("Hello.").event())
        error = Error.from_event((await until(client, "error"))[-1])
        assert "wait for an audio-stop" in error.text

    pipeline.script = endless
    talk(door, run)

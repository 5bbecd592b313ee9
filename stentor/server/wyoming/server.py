"""Knows how Wyoming is spoken: what there is to say it with, a text at once, and a text in portions."""

import asyncio
import contextlib
import logging
import socket
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

import stentor
from stentor.errors import InternalError, RequestError, StentorError, TooLargeError
from stentor.server.bodies import SpeechBody
from stentor.server.caller import Caller, enter
from stentor.server.conversation import Limits
from stentor.server.delivery import RawBytes
from stentor.server.errors import BROKEN
from stentor.server.narration import Manner, Narration
from stentor.server.utterance import ReaderGoneError, Service
from stentor.server.wyoming.wire import Event, read, to_bytes
from stentor.text.sentences import Granularity, SentenceSplitter
from stentor.voices import VoiceStore

_MAX_EVENT_BYTES = 2**20
# Texts of one connection that are not spoken yet.
_MAX_WAITING = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Door:
    """What all connections share; `languages` are ISO 639-1 codes with commas."""

    service: Service
    voices: VoiceStore
    limits: Limits
    languages: str


@contextlib.asynccontextmanager
async def serving(door: Door, listener: socket.socket) -> Any:
    """Answer on a bound socket until this is left; then every connection ends."""
    connections: set[asyncio.Task[None]] = set()

    async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "the server runs each connection as a task"
        connections.add(task)
        task.add_done_callback(connections.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await Guest(door, reader, writer).run()

    server = await asyncio.start_server(welcome, sock=listener, limit=_MAX_EVENT_BYTES)
    async with server:
        try:
            yield server
        finally:
            server.close()
            for task in list(connections):
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)


class Guest:
    """One connection: read all the time, its texts spoken one after another."""

    def __init__(self, door: Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._id = uuid.uuid4().hex
        self._door = door
        self._reader = reader
        self._writer = writer
        self._writing: Narration | None = None  # Of synthesize-start, until its synthesize-stop.
        self._narrations: list[Narration] = []
        self._num_narrations = 0
        self._last: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Talk until the client goes, sends what cannot be read, or is silent for too long."""
        enter(Caller(self._id))
        try:
            while (event := await self._read()) is not None:
                await self._handle(event)
        except StentorError as error:
            with contextlib.suppress(ReaderGoneError):
                await self._refuse(error)
        except ReaderGoneError:
            pass
        except asyncio.CancelledError:
            # The server ends: it does not wait for one who does not read.
            self._writer.transport.abort()
            raise
        except Exception:
            log.exception("conversation %s has broken", self._id)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._writer.close()
            try:
                async with asyncio.timeout(self._door.limits.write_timeout_s):
                    await self._writer.wait_closed()
            except (OSError, TimeoutError):
                self._writer.transport.abort()

    async def _read(self) -> Event | None:
        reading = asyncio.ensure_future(read(self._reader, _MAX_EVENT_BYTES))
        try:
            while True:
                done, _ = await asyncio.wait({reading}, timeout=self._door.limits.idle_timeout_s)
                if done:
                    return reading.result()
                # While it is being spoken to, a client may listen in silence.
                if all(narration.idle for narration in self._narrations):
                    raise RequestError("no event came for too long", code="idle_timeout")
        except OSError:
            return None
        finally:
            reading.cancel()

    async def _handle(self, event: Event) -> None:
        try:
            match event.type:
                case "describe":
                    await self._send(Event("info", await self._info()))
                case "ping":
                    await self._send(Event("pong", event.data))
                case "synthesize" if self._writing is None:
                    self._say_at_once(_text(event), event)
                case "synthesize-start":
                    self._end_writing()
                    self._writing = self._begin(event, "sentence")
                case "synthesize-chunk":
                    if self._writing is None:
                        raise RequestError("synthesize-start comes before synthesize-chunk")
                    self._writing.write(_text(event))
                case "synthesize-stop" if self._writing is None:
                    # Who was refused at the start waits for this all the same.
                    await self._send(Event("synthesize-stopped"))
                case "synthesize-stop":
                    self._end_writing()
                # Others are for other services; and a whole text within portions is for older servers.
        except StentorError as error:
            await self._refuse(error)
            # Who waits for audio learns that there is none.
            await self._send(Event("audio-stop"))

    def _say_at_once(self, text: str, event: Event) -> None:
        narration = self._begin(event, "none")
        try:
            narration.write(text)
        except StentorError:
            narration.cancel()
            raise
        narration.end()

    def _end_writing(self) -> None:
        if self._writing is not None:
            self._writing.end()
        self._writing = None

    def _begin(self, event: Event, granularity: Granularity) -> Narration:
        if len(self._narrations) >= _MAX_WAITING:
            raise TooLargeError(f"{_MAX_WAITING} texts are still to be spoken: wait for an audio-stop")
        voice = event.data.get("voice")
        named = voice if isinstance(voice, dict) else {}
        service, limits = self._door.service, self._door.limits
        body = SpeechBody(
            input="-",
            voice=_string(named.get("name")),
            language=_string(named.get("language")),
            response_format="pcm",
            stream=True,
            sample_rate=24_000,
        )
        self._num_narrations += 1
        manner = Manner(service.reader, body, f"{self._id}-{self._num_narrations}")
        splitter = SentenceSplitter(granularity, _string(named.get("language")) or "en")
        narration = Narration(
            service, manner, lambda _, rate_hz: RawBytes("pcm", rate_hz), splitter, limits.max_pending_chars
        )
        self._narrations.append(narration)
        self._last = self._beside(self._speak(narration, self._last, in_portions=granularity != "none"))
        return narration

    def _beside(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _speak(
        self, narration: Narration, before: "asyncio.Task[None] | None", *, in_portions: bool
    ) -> None:
        """Speak one text after those before it."""
        if before is not None:
            await asyncio.wait({before})
        try:
            await self._say(narration)
            if in_portions:
                await self._send(Event("synthesize-stopped"))
        except ReaderGoneError:
            # To close would be to wait until all has been read.
            self._writer.transport.abort()
        except Exception:
            log.exception("conversation %s has broken", self._id)
            with contextlib.suppress(ReaderGoneError):
                await self._refuse(InternalError(BROKEN))
            self._writer.close()
        finally:
            self._narrations.remove(narration)

    async def _say(self, narration: Narration) -> None:
        started = False
        async with narration.pieces() as pieces:
            async for piece in pieces:
                if piece.error is not None:
                    await self._refuse(piece.error)
                if piece.data:
                    described = {"rate": piece.sample_rate_hz, "width": 2, "channels": 1}
                    if not started:
                        await self._send(Event("audio-start", described))
                    started = True
                    await self._send(Event("audio-chunk", described, piece.data))
        if not narration.cancelled:
            await self._send(Event("audio-stop"))

    async def _refuse(self, error: StentorError) -> None:
        await self._send(Event("error", {"text": error.message, "code": error.code or "invalid_request"}))

    async def _send(self, event: Event) -> None:
        try:
            self._writer.write(to_bytes(event))
            async with asyncio.timeout(self._door.limits.write_timeout_s):
                await self._writer.drain()
        except (OSError, TimeoutError):
            raise ReaderGoneError from None

    async def _info(self) -> dict[str, Any]:
        languages = [code.strip() for code in self._door.languages.split(",") if code.strip()]
        voices = await run_in_threadpool(self._door.voices.all)
        told = [
            {
                **_artifact(voice.name, voice.description or voice.name),
                "languages": [voice.language] if voice.language else languages,
            }
            for voice in voices
        ]
        program = _artifact("stentor", f"{self._door.service.reader.served_name}, served by Stentor")
        none: dict[str, Any] = {kind: [] for kind in ("asr", "handle", "intent", "wake", "mic", "snd")}
        return {**none, "tts": [{**program, "voices": told, "supports_synthesize_streaming": True}]}


def _artifact(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "description": description,
        "attribution": {"name": "Stentor", "url": ""},
        "installed": True,
        "version": stentor.__version__,
    }


def _text(event: Event) -> str:
    text = event.data.get("text")
    if not isinstance(text, str):
        raise RequestError("text must be a string", param="text")
    return text


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None

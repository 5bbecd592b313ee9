"""Knows how `POST /v1/audio/speech` is answered: no status before audio, no work for a reader who left.

Nothing here makes audio; it is encoded in threads, so that the event loop only passes bytes on.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stentor.audio.formats import content_type, encode_file
from stentor.errors import InternalError, OverloadedError, RequestError, StentorError, summary
from stentor.metrics import Metrics, RequestMeter
from stentor.request import Audio
from stentor.server.admission import Admission
from stentor.server.delivery import Form, make_form
from stentor.server.errors import BROKEN, error_response
from stentor.server.protocol import Delivery, Order, Reader, SpeechBody

if TYPE_CHECKING:
    from stentor.pipeline.stream import AudioStream

T = TypeVar("T")

# A file goes out in slices, so that a reader may take long over it, but not stand still.
_SLICE_BYTES = 64 * 1024
_NO_SOUND = "the model made no sound for this text: try another seed, or other words"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """What answers need: where requests go, how bodies are read, where figures go, and who encodes."""

    pipeline: Admission
    reader: Reader
    metrics: Metrics
    encoders: Executor
    sample_rate_hz: int
    write_timeout_s: float


def router(service: Service) -> APIRouter:
    """The route of speech."""
    routes = APIRouter()

    @routes.post("/v1/audio/speech", response_class=Response, summary="Say a text.")
    async def speak(body: SpeechBody, request: Request) -> Response:
        order = service.reader.read(body, request.state.request_id)
        streamed = order.delivery is not Delivery.FILE
        meter = service.metrics.measure(service.sample_rate_hz, streamed=streamed)
        try:
            stream = service.pipeline.submit(order.request)
        except StentorError as error:
            meter.end("overloaded" if isinstance(error, OverloadedError) else "error")
            raise
        kind = StreamedAnswer if streamed else WholeAnswer
        return kind(service, order, stream, meter)

    return routes


class ReaderGoneError(Exception):
    """Nobody reads the answer any more."""


class Answer(Response):
    """The answer to one order; ends its stream whether it is read to the end, fails, or is left."""

    def __init__(self, service: Service, order: Order, stream: "AudioStream", meter: RequestMeter) -> None:
        super().__init__()
        self._service = service
        self._order = order
        self._stream = stream
        self._meter = meter
        self._last: Audio | None = None
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.ensure_future(self._answer(scope, receive, send))
        leaving = asyncio.ensure_future(_left(receive))
        outcome = "aborted"
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                outcome = answering.result()
        finally:
            self._stream.abort()
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
            self._record(outcome)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> str:
        """Answer, and say how it ended: done, refused, error or aborted."""
        try:
            await self._send_audio(send)
            return "done"
        except ReaderGoneError:
            return "aborted"
        except StentorError as error:
            failure = error
        except Exception:  # The boundary: whatever it is, the client gets an answer and the log the rest.
            log.exception("request %s failed", self._order.request.request_id)
            failure = InternalError(BROKEN)
        refused = isinstance(failure, RequestError)
        level = logging.INFO if refused else logging.ERROR
        log.log(level, "request %s: %s", self._order.request.request_id, summary(failure))
        with contextlib.suppress(ReaderGoneError):
            await self._fail(failure, scope, receive, send)
        return "refused" if refused else "error"

    async def _send_audio(self, send: Send) -> None:
        raise NotImplementedError

    async def _fail(self, error: StentorError, scope: Scope, receive: Receive, send: Send) -> None:
        await error_response(error)(scope, receive, send)

    async def _start(self, send: Send, media_type: str, headers: dict[str, str]) -> None:
        order = self._order
        told = {"Content-Type": media_type, "X-Sample-Rate": str(self._service.sample_rate_hz), **headers}
        if order.seed is not None:
            told["X-Seed"] = str(order.seed)
        if order.warnings:
            told["X-Stentor-Warning"] = "; ".join(order.warnings)
        self._started = True
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in told.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})

    async def _write(self, send: Send, data: bytes, *, more: bool = True) -> None:
        try:
            async with asyncio.timeout(self._service.write_timeout_s):
                await send({"type": "http.response.body", "body": data, "more_body": more})
        except (TimeoutError, OSError):
            raise ReaderGoneError from None

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._service.encoders, work, *args)

    def _ending(self) -> Audio:
        """The last piece, once all were taken. Raises InternalError if there was no sound in any."""
        if self._last is None or self._meter.audio_s == 0:
            raise InternalError(_NO_SOUND)
        return self._last

    def _record(self, outcome: str) -> None:
        last, meter = self._last, self._meter
        figures: dict[str, Any] = {}
        if last is not None:
            figures["finish_reason"] = last.finish_reason or ""
        if last is not None and last.usage is not None:
            figures["prompt_tokens"] = last.usage.prompt_tokens
            figures["completion_tokens"] = last.usage.completion_tokens
        taken_s = meter.end(outcome, **figures)
        log.info(
            "request %s %s%s: %.2f s of audio in %.2f s, first after %s",
            self._order.request.request_id,
            outcome,
            f" ({figures['finish_reason']})" if figures.get("finish_reason") else "",
            meter.audio_s,
            taken_s,
            "-" if meter.ttfa_s is None else f"{meter.ttfa_s:.3f} s",
        )


class WholeAnswer(Answer):
    """One file of true length, once all of it is there."""

    async def _send_audio(self, send: Send) -> None:
        waveforms = []
        async for audio in self._stream:
            self._last = audio
            waveforms.append(audio.waveform)
            self._meter.heard(len(audio.waveform))
        last, format = self._ending(), self._order.format
        whole = np.concatenate(waveforms)
        data = await self._in_thread(encode_file, whole, format, self._service.sample_rate_hz)
        headers = {"Content-Length": str(len(data)), "X-Finish-Reason": str(last.finish_reason)}
        if last.usage is not None:
            headers["X-Prompt-Tokens"] = str(last.usage.prompt_tokens)
            headers["X-Completion-Tokens"] = str(last.usage.completion_tokens)
        await self._start(send, content_type(format), headers)
        for at in range(0, len(data), _SLICE_BYTES):
            await self._write(send, data[at : at + _SLICE_BYTES], more=at + _SLICE_BYTES < len(data))


class StreamedAnswer(Answer):
    """Audio in one of the forms of a stream, as it is made."""

    _form: Form

    async def _send_audio(self, send: Send) -> None:
        order, rate_hz = self._order, self._service.sample_rate_hz
        self._form = await self._in_thread(
            make_form, order.delivery, order.format, order.request.request_id, rate_hz
        )
        async for audio in self._stream:
            self._last = audio
            if len(audio.waveform) == 0:
                continue
            data = await self._in_thread(self._form.piece, audio.waveform)
            self._meter.heard(len(audio.waveform))
            if not self._started:
                await self._start(send, self._form.media_type, _stream_headers(order))
            if data:
                await self._write(send, data)
        rest = await self._in_thread(self._form.finish, self._ending())
        await self._write(send, rest, more=False)

    async def _fail(self, error: StentorError, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._started:
            return await super()._fail(error, scope, receive, send)
        told = self._form.failure(error)
        if told is not None:
            await self._write(send, told, more=False)
        # Otherwise the response stays unfinished: the connection is closed, and the client sees the break.
        return None


def _stream_headers(order: Order) -> dict[str, str]:
    if order.delivery is not Delivery.RAW:
        return {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return {"X-Channels": "1", "X-Bit-Depth": "16"} if order.format == "pcm" else {}


async def _left(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass

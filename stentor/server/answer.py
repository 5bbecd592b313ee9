"""Knows how one order is answered over HTTP: no status before audio, no work for a reader who left."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stentor.errors import InternalError, StentorError
from stentor.request import Audio
from stentor.server.delivery import Form, make_form
from stentor.server.errors import BROKEN, error_response
from stentor.server.protocol import Delivery, Order
from stentor.server.utterance import ReaderGoneError, Service, Utterance

# A file goes out in slices, so that a reader may take long over it, but not stand still.
_SLICE_BYTES = 64 * 1024


class WatchedResponse(Response):
    """An answer that is no longer made when its reader has gone, or reads nothing for `write_timeout_s`."""

    def __init__(self, write_timeout_s: float) -> None:
        super().__init__()
        self._write_timeout_s = write_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.ensure_future(self.answer(scope, receive, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the whole answer."""
        raise NotImplementedError

    async def send_whole(self, send: Send, media_type: str, data: bytes) -> None:
        """Send all there is; returns early if the reader has gone."""
        headers = {"Content-Type": media_type, "Content-Length": str(len(data))}
        await self._begin(send, headers)
        with contextlib.suppress(ReaderGoneError):
            await self._write_all(send, data)
            await self._write(send, b"", more=False)

    async def _begin(self, send: Send, headers: dict[str, str]) -> None:
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})

    async def _write_all(self, send: Send, data: bytes) -> None:
        for at in range(0, len(data), _SLICE_BYTES):
            await self._write(send, data[at : at + _SLICE_BYTES])

    async def _write(self, send: Send, data: bytes, *, more: bool = True) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await send({"type": "http.response.body", "body": data, "more_body": more})
        except (TimeoutError, OSError):
            raise ReaderGoneError from None


class SpeechAnswer(WatchedResponse):
    """The answer to one order: its audio as it is made, or one file of true length when all is there.

    `form` is a dialect's own: what its audio looks like.
    """

    def __init__(self, service: Service, order: Order, form: Callable[[int], Form] | None = None) -> None:
        super().__init__(service.write_timeout_s)
        self._service = service
        self._order = order
        self._make_form = form or partial(make_form, order)
        self._started = False
        self._form: Form | None = None

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `WatchedResponse.answer`; whatever happens, the client gets an answer."""
        try:
            async with Utterance(self._service, self._order, self._make_form) as utterance:
                async for data in utterance:
                    if not self._started:
                        await self._start(send, utterance, len(data))
                    await self._write_all(send, data)
                utterance.delivered()
                await self._write(send, b"", more=False)
            return
        except ReaderGoneError:
            return
        except StentorError as error:
            failure = error
        except Exception:  # logged by the utterance
            failure = InternalError(BROKEN)
        with contextlib.suppress(ReaderGoneError):
            await self._fail(failure, scope, receive, send)

    async def _fail(self, error: StentorError, scope: Scope, receive: Receive, send: Send) -> None:
        error.param = self._order.names.get(error.param or "", error.param)
        if not self._started:
            return await error_response(error)(scope, receive, send)
        told = self._form.failure(error) if self._form else None
        if told is not None:
            await self._write(send, told, more=False)
        # Otherwise the response stays unfinished: the connection is closed, and the client sees the break.
        return None

    async def _start(self, send: Send, utterance: Utterance, num_bytes: int) -> None:
        self._started = True
        order, self._form = self._order, utterance.form
        assert self._form is not None, "data comes from a form"
        told = {"Content-Type": self._form.media_type, "X-Sample-Rate": str(utterance.sample_rate_hz)}
        if order.delivery is Delivery.FILE:
            told |= {"Content-Length": str(num_bytes), **_how_it_ended(utterance.last)}
        elif order.delivery is not Delivery.RAW:
            told |= {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        elif order.format == "pcm":
            told |= {"X-Channels": "1", "X-Bit-Depth": "16"}
        if order.seed is not None:
            told["X-Seed"] = str(order.seed)
        if order.warnings:
            told["X-Stentor-Warning"] = "; ".join(order.warnings)
        await self._begin(send, told)


def _how_it_ended(last: Audio | None) -> dict[str, str]:
    assert last is not None, "a file is sent when all of it is there"
    told = {"X-Finish-Reason": str(last.finish_reason)}
    if last.usage is not None:
        told["X-Prompt-Tokens"] = str(last.usage.prompt_tokens)
        told["X-Completion-Tokens"] = str(last.usage.completion_tokens)
    return told


async def _left(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass

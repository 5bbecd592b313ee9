"""Knows how a WebSocket is kept: read all the time, written with a limit, and nothing left when it ends."""

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from stentor.errors import InternalError, RequestError, StentorError, TooLargeError
from stentor.server.access import KEY_PROTOCOL
from stentor.server.errors import BROKEN
from stentor.server.utterance import ReaderGoneError

# Close codes: RFC 6455, section 7.4.1.
NORMAL, POLICY, TOO_BIG, BROKE = 1000, 1008, 1009, 1011

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How long a client may be silent or not read, and how much it may send: at once, and ahead of speech."""

    idle_timeout_s: float
    write_timeout_s: float
    max_message_bytes: int
    max_pending_chars: int


class HangUpError(ReaderGoneError):
    """There is nobody left to talk to, or nothing left to say: `code` is the WebSocket's close code."""

    def __init__(self, code: int = NORMAL) -> None:
        super().__init__(code)
        self.code = code


class Conversation:
    """One WebSocket. A dialect says what a message means (`handle`) and how an error is told (`refuse`).

    Messages are handled one after another and at once; what takes time runs beside them (`beside`), so that
    a client can always interrupt. However a conversation ends, everything beside it ends with it.
    """

    def __init__(self, websocket: WebSocket, limits: Limits) -> None:
        self.id: str = websocket.scope.get("state", {}).get("request_id") or uuid.uuid4().hex
        self._websocket = websocket
        self._limits = limits
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def handle(self, event: dict[str, Any]) -> None:
        """What a message means. Raises StentorError to refuse it, HangUpError to hang up."""
        raise NotImplementedError

    async def refuse(self, error: StentorError, event: Mapping[str, Any]) -> None:
        """Tell the client what is wrong with its message (`event`, empty if it is about none)."""
        raise NotImplementedError

    async def greet(self) -> None:
        """What is said before the first message."""

    def silence_s(self) -> float | None:
        """Seconds that the client may be silent from now on; None while it is being spoken to."""
        return None if self._tasks else self._limits.idle_timeout_s

    async def run(self) -> None:
        """Talk until the client goes, the dialect hangs up, or the client is silent for too long."""
        await self._websocket.accept(_answered(self._websocket.scope.get("subprotocols", ())))
        listening = asyncio.ensure_future(self._listen())
        try:
            ends: list[asyncio.Future[Any]] = [listening, self._over]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            code = self._over.result() if self._over.done() else listening.result()
        finally:
            tasks = [listening, *self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if code is not None:
            await self._close(code)

    async def send(self, message: Mapping[str, Any] | bytes) -> None:
        """Send JSON, or bytes. Raises HangUpError if the client does not read any more."""
        try:
            async with asyncio.timeout(self._limits.write_timeout_s):
                if isinstance(message, bytes):
                    await self._websocket.send_bytes(message)
                else:
                    # As ASCII: an error may quote half a surrogate pair, which has no bytes in UTF-8.
                    await self._websocket.send_text(json.dumps(message, separators=(",", ":")))
        except (TimeoutError, OSError, RuntimeError, WebSocketDisconnect):
            raise HangUpError(POLICY) from None

    def beside(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run `work` beside the conversation, and end it with it; if it breaks, both end."""
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except HangUpError as over:
            self._hang_up(over.code)
        except Exception:  # The boundary: the client is told, and the log gets the rest.
            self._hang_up(await self._break())

    async def _listen(self) -> int | None:
        """Greet, then handle messages until it is over; the code to close with, None if the client has."""
        try:
            await self.greet()
            while True:
                await self._handle(await self._receive())
        except WebSocketDisconnect:
            return None
        except HangUpError as over:
            return over.code
        except Exception:
            return await self._break()

    async def _handle(self, message: str | bytes) -> None:
        event: dict[str, Any] = {}
        try:
            event = self._read(message)
            await self.handle(event)
        except StentorError as error:
            await self.refuse(error, event)

    async def _receive(self) -> str | bytes:
        while True:
            silence_s = self.silence_s()
            try:
                # While it is being spoken to, a client may listen in silence.
                async with asyncio.timeout(self._limits.idle_timeout_s if silence_s is None else silence_s):
                    message = await self._websocket.receive()
            except TimeoutError:
                if silence_s is None:
                    continue
                await self.refuse(
                    RequestError(f"no message came for {silence_s:g} s", code="idle_timeout"), {}
                )
                raise HangUpError(POLICY) from None
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", NORMAL))
            received: str | bytes = message.get("text") or message.get("bytes") or ""
            if len(received) > self._limits.max_message_bytes:
                limit = f"a message may have {self._limits.max_message_bytes} bytes"
                await self.refuse(TooLargeError(f"{limit}, this one has {len(received)}"), {})
                raise HangUpError(TOO_BIG)
            return received

    def _read(self, message: str | bytes) -> dict[str, Any]:
        try:
            event = json.loads(message)
        except ValueError as error:  # Bytes that are no UTF-8 are one, too.
            raise RequestError(f"the message is not valid JSON: {error}") from None
        except RecursionError:
            raise RequestError("the message is nested too deeply") from None
        if not isinstance(event, dict):
            raise RequestError("the message must be a JSON object")
        return event

    async def _break(self) -> int:
        log.exception("conversation %s has broken", self.id)
        with contextlib.suppress(HangUpError):
            await self.refuse(InternalError(BROKEN), {})
        return BROKE

    def _hang_up(self, code: int) -> None:
        if not self._over.done():
            self._over.set_result(code)

    async def _close(self, code: int) -> None:
        try:
            async with asyncio.timeout(self._limits.write_timeout_s):
                await self._websocket.close(code)
        except (TimeoutError, OSError, RuntimeError, WebSocketDisconnect):
            pass  # It is closed already.


def _answered(offered: Sequence[str]) -> str | None:
    """The subprotocol to answer with: a browser that offers some hangs up unless it gets one of them.

    It is none that carries a key, unless there is no other.
    """
    return min(offered, key=lambda protocol: protocol.startswith(KEY_PROTOCOL), default=None)

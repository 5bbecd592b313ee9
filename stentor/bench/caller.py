"""One caller of an HTTP server, who notes when each piece of an answer comes.

A library's client spends milliseconds on a request: of many callers in one process, these would be measured
instead of the server's. So a caller is a socket, and the parser that servers use.
"""

import asyncio
import json
import ssl
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools


@dataclass
class Answer:
    """A whole answer; `arrived_s`, of each piece, and `total_s` count from its request's sending."""

    status: int = 0
    pieces: list[bytes] = field(default_factory=list)
    arrived_s: list[float] = field(default_factory=list)
    total_s: float = 0.0


class Caller(asyncio.Protocol):
    """Posts one request after another, over one connection as long as the server keeps it.

    The methods behind `close` are asyncio's and the parser's to call.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self._place = parts.hostname or "", parts.port or (443 if secure else 80)
        self._ssl = ssl.create_default_context() if secure else None
        self._head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json"
        self._timeout_s = timeout_s
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[Answer] | None = None

    async def post(self, body: dict[str, Any]) -> Answer:
        """The answer to one request. Raises OSError if it does not come, or breaks off."""
        data = json.dumps(body).encode()
        self._sent_s, self._answer, self._framed = time.perf_counter(), Answer(), False
        self._parser = httptools.HttpResponseParser(self)
        try:
            async with asyncio.timeout(self._timeout_s):
                loop = asyncio.get_running_loop()
                if self._transport is None:
                    await loop.create_connection(lambda: self, *self._place, ssl=self._ssl)
                assert self._transport is not None, "it is connected"
                self._done = loop.create_future()
                head = f"{self._head}\r\nContent-Length: {len(data)}\r\n\r\n"
                self._transport.write(head.encode() + data)
                return await self._done
        except BaseException:
            # What still comes of this answer is not the next one's.
            if self._transport is not None:
                self._transport.abort()
                self._transport = None
            raise

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(OSError(f"this is not HTTP: {error}"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        # Without a length or chunks, the end of the connection is that of the answer.
        whole = error is None and self._answer.status and not self._framed
        self._end(None if whole else error or ConnectionError("the server hung up amid an answer"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._framed = self._framed or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._answer.arrived_s.append(time.perf_counter() - self._sent_s)
        self._answer.pieces.append(body)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
            self._transport = None
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._answer.total_s = time.perf_counter() - self._sent_s
            self._done.set_exception(error) if error else self._done.set_result(self._answer)

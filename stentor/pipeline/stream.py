"""What the caller of a request holds: its audio as it comes, for threads and for asyncio alike."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Self

from stentor.errors import AbortedError, StentorError
from stentor.request import Audio


class AudioStream:
    """The audio of one request, for one reader: iterate with `for` or with `async for`.

    Iteration raises the StentorError with which the request failed, after the audio that came before it. The
    request keeps its place in the house until it is read to the end or aborted; a stream that nobody holds
    any more is aborted.
    """

    def __init__(self, request_id: str, release: Callable[[], None], dismiss: Callable[[], None]) -> None:
        self.request_id = request_id
        self.ended = False  # Has the request come to an end, read or not.
        self._release_place = release
        self._dismiss = dismiss
        self.released = False  # Has the request given its place back.
        self._pieces: deque[Audio] = deque()
        self._error: StentorError | None = None
        self._changed = threading.Condition()
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    def __del__(self) -> None:
        if not self.released:
            self._dismiss()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Audio:
        with self._changed:
            while not self._pieces and not self.ended:
                self._changed.wait()
            piece = self._next_piece()
        if piece is None:
            raise StopIteration
        return piece

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Audio:
        while True:
            with self._changed:
                if self._pieces or self.ended:
                    piece = self._next_piece()
                    break
                loop = asyncio.get_running_loop()
                waiter = loop.create_future()
                self._waiter = (loop, waiter)
            await waiter
        if piece is None:
            raise StopAsyncIteration
        return piece

    def abort(self) -> None:
        """Stop the request and drop what was not read; does nothing once the stream is read to its end."""
        with self._changed:
            unread = bool(self._pieces) or not self.ended
            self.ended = True
            if unread:
                self._pieces.clear()
                self._error = AbortedError("the request was aborted")
            self._wake()
        self._release()

    def put(self, audio: Audio) -> None:
        """The pipeline's side: the next piece; ignored once the request has ended."""
        with self._changed:
            if not self.ended:
                self._pieces.append(audio)
                self._wake()

    def end(self, error: StentorError | None = None) -> None:
        """The pipeline's side: no more pieces; only the first end of a request counts."""
        with self._changed:
            if self.ended:
                return
            self._error, self.ended = error, True
            all_read = not self._pieces and error is None
            self._wake()
        if all_read:
            self._release()

    def _next_piece(self) -> Audio | None:
        """The next piece, None at the end; the last one and an error free the request's place."""
        piece = self._pieces.popleft() if self._pieces else None
        if self.ended and not self._pieces:
            if piece is None and self._error is not None:
                error, self._error = self._error, None
                self._release()
                raise error
            if self._error is None:
                self._release()
        return piece

    def _release(self) -> None:
        if not self.released:
            self.released = True
            self._release_place()

    def _wake(self) -> None:
        self._changed.notify_all()
        waiting, self._waiter = self._waiter, None
        if waiting is not None:
            loop, waiter = waiting
            # A loop that was closed meanwhile has no reader left to wake.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: None if waiter.done() else waiter.set_result(None))

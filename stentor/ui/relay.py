"""Hands the sound that one handler receives on to the browser's player, byte by byte as it comes."""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

# Sounds that a browser may still ask for; older ones are in the history, as files.
_KEPT = 16


class Sound:
    """A WAV file that is still growing."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.complete = False
        self._changed = asyncio.Event()

    def add(self, data: bytes) -> None:
        """Its next bytes."""
        self.data += data
        self._wake()

    def end(self) -> None:
        """No more will come."""
        self.complete = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        at = 0
        while True:
            changed = self._changed
            if at < len(self.data):
                piece = bytes(self.data[at:])
                at += len(piece)
                yield piece
            elif self.complete:
                return
            else:
                await changed.wait()


class Relay:
    """The growing sounds, by names that cannot be guessed; `route` is where the browser hears them."""

    def __init__(self) -> None:
        self._sounds: OrderedDict[str, Sound] = OrderedDict()
        self.route = Route("/sound/{name}", self._answer)

    def open(self) -> tuple[str, Sound]:
        """A new sound and the path that it is heard at, relative to the page."""
        name, sound = secrets.token_urlsafe(12), Sound()
        self._sounds[name] = sound
        while len(self._sounds) > _KEPT:
            self._sounds.popitem(last=False)
        return f"sound/{name}", sound

    async def _answer(self, request: Request) -> Response:
        sound = self._sounds.get(request.path_params["name"])
        if sound is None:
            return Response("this sound is no longer kept", 404, media_type="text/plain")
        return StreamingResponse(aiter(sound), media_type="audio/wav", headers={"Cache-Control": "no-store"})

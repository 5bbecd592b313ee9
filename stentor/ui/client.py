"""Asks a Stentor server over HTTP, and turns whatever goes wrong into words."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2

from stentor.errors import RequestError

# The server says when it gives up; a generation may take minutes before its first sound.
_TIMEOUT = httpx2.Timeout(600.0, connect=5.0)
_WAV_HEADER_BYTES = 44


class Speaking:
    """A text being spoken: the seed it got, and what was measured on this side; `rtf` comes with the end."""

    def __init__(self, response: httpx2.Response, began_s: float, sample_rate_hz: int) -> None:
        self.seed = response.headers.get("X-Seed", "")
        self.sample_rate_hz = sample_rate_hz
        self.pcm = bytearray()
        self.ttfa_s: float | None = None
        self.rtf: float | None = None
        self._response = response
        self._began_s = began_s

    @property
    def duration_s(self) -> float:
        """Seconds of audio that have come."""
        return len(self.pcm) / 2 / self.sample_rate_hz

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes of a WAV file as they come; the samples, 16-bit little-endian, are in `pcm`."""
        skip = _WAV_HEADER_BYTES
        try:
            async for data in self._response.aiter_bytes():
                sound = data[skip:]
                skip = max(0, skip - len(data))
                if sound and self.ttfa_s is None:
                    self.ttfa_s = time.monotonic() - self._began_s
                self.pcm += sound
                yield data
        except httpx2.HTTPError:
            raise RequestError("the connection broke before all was said: see the server's log") from None
        if self.pcm:
            self.rtf = (time.monotonic() - self._began_s) / self.duration_s


class Client:
    """One server, by its address and a key where it asks for one. Every method raises RequestError."""

    def __init__(self, url: str, api_key: str = "") -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # The address is the user's own; a proxy for the world outside is not asked for it.
        self._http = httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=_TIMEOUT, trust_env=False)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def model(self) -> dict[str, Any]:
        """The served model: `id`, `sample_rate`, `control_tags`."""
        listed = await self._json("GET", "/v1/models")
        model: dict[str, Any] = listed["data"][0]
        return model

    async def voices(self) -> list[dict[str, Any]]:
        """All voices, each with `id`, `name`, `preset`."""
        listed: list[dict[str, Any]] = (await self._json("GET", "/v1/audio/voices"))["voices"]
        return listed

    @asynccontextmanager
    async def say(self, order: dict[str, Any]) -> AsyncIterator[Speaking]:
        """Have a text said; leaving the context before its end stops it."""
        began_s = time.monotonic()
        body = {**order, "response_format": "wav", "stream_format": "audio"}
        try:
            async with self._http.stream("POST", "/v1/audio/speech", json=body) as response:
                if response.is_error:
                    await response.aread()
                _check(response)
                yield Speaking(response, began_s, int(response.headers.get("X-Sample-Rate", 24_000)))
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from None

    async def keep(self, name: str, recording: str, transcript: str) -> dict[str, Any]:
        """Make a voice of a file."""
        form = {"name": name, "consent": "given on the page"} | (
            {"transcript": transcript} if transcript else {}
        )
        files = {"audio_sample": (Path(recording).name, Path(recording).read_bytes())}
        return await self._json("POST", "/v1/audio/voices", data=form, files=files)

    async def rename(self, voice: str, name: str) -> dict[str, Any]:
        """Give a voice another name."""
        return await self._json("PATCH", _path(voice), json={"name": name})

    async def remove(self, voice: str) -> None:
        """Remove a voice."""
        await self._json("DELETE", _path(voice))

    async def preview(self, voice: str) -> bytes:
        """A sentence in that voice, a WAV file."""
        return (await self._ask("GET", _path(voice) + "/preview")).content

    async def _json(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        told: dict[str, Any] = (await self._ask(method, path, **body)).json()
        return told

    async def _ask(self, method: str, path: str, **body: Any) -> httpx2.Response:
        try:
            response = await self._http.request(method, path, **body)
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from None
        _check(response)
        return response

    def _unreachable(self, error: httpx2.HTTPError) -> RequestError:
        return RequestError(
            f"the server at {self.url} cannot be reached ({type(error).__name__}): is it running?"
        )


def _path(voice: str) -> str:
    return f"/v1/audio/voices/{quote(voice, safe='')}"


def _check(response: httpx2.Response) -> None:
    if not response.is_error:
        return
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {response.status_code} {response.reason_phrase}"
    raise RequestError(message[:1].upper() + message[1:])

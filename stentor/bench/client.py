"""An asyncio load generator for any speech server that speaks OpenAI's API and streams raw PCM."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from stentor.bench.caller import Caller
from stentor.bench.level import Level, Timing
from stentor.bench.machine import load_average
from stentor.bench.texts import texts
from stentor.errors import ConfigError
from stentor.playout import PlayoutClock

_BYTES_PER_SAMPLE = 2


@dataclass(frozen=True)
class Target:
    """The server under load and how it is asked; `extra` goes into every request's body as it is."""

    url: str
    model: str = ""
    voice: str = "default"
    sample_rate_hz: int = 24_000
    timeout_s: float = 300.0
    extra: dict[str, Any] = field(default_factory=dict)

    def body(self, text: str) -> dict[str, Any]:
        """The JSON of one request."""
        named = {"model": self.model} if self.model else {}
        wanted = {"input": text, "voice": self.voice, "response_format": "pcm", "stream": True}
        return {**named, **wanted, **self.extra}


class SilentServerError(Exception):
    """A request did not bring audio; the message says why."""


async def run_level(target: Target, texts: Sequence[str], concurrency: int) -> Level:
    """Say all `texts`, `concurrency` at a time: each caller sends its next one when its last has ended."""
    waiting = iter(texts)
    timings: list[Timing] = []
    errors: list[str] = []
    speech = f"{target.url.rstrip('/')}/v1/audio/speech"
    callers = [Caller(speech, target.timeout_s) for _ in range(concurrency)]
    started_s = time.perf_counter()
    try:
        await asyncio.gather(*(_call(caller, target, waiting, timings, errors) for caller in callers))
        wall_s = time.perf_counter() - started_s
    finally:
        for caller in callers:
            caller.close()
    return Level(concurrency, wall_s, timings, errors, load_average())


def measure_levels(
    target: Target, concurrencies: Sequence[int], requests: int, progress: Callable[[str], None]
) -> list[Level]:
    """`requests` sentences per caller at each concurrency, after one request to warm up.

    Raises:
        ConfigError: the server does not answer with audio.
    """
    progress("warming up")
    check_reachable(target)
    levels = []
    for concurrency in concurrencies:
        progress(f"concurrency {concurrency}")
        levels.append(asyncio.run(run_level(target, texts(concurrency * requests), concurrency)))
    return levels


def first_model(url: str) -> str:
    """The name of the first model that the server lists; empty if it lists none."""
    try:
        listing = httpx2.get(f"{url.rstrip('/')}/v1/models", timeout=10.0, trust_env=False).json()
        return str(listing["data"][0]["id"])
    except (httpx2.HTTPError, ValueError, LookupError, TypeError):
        return ""


def check_reachable(target: Target) -> None:
    """Raise ConfigError with the server's own words if one short request brings no audio."""
    if not target.url.startswith(("http://", "https://")):
        raise ConfigError(f"{target.url!r} is no address of a server: it begins with http:// or https://")
    level = asyncio.run(run_level(target, ["Hello."], 1))
    if level.errors:
        raise ConfigError(f"{target.url} does not speak: {level.errors[0]}")


async def _call(
    caller: Caller, target: Target, texts: Iterable[str], timings: list[Timing], errors: list[str]
) -> None:
    for text in texts:
        try:
            timings.append(await _speak(caller, target, text))
        except (SilentServerError, OSError) as error:
            errors.append(f"{type(error).__name__}: {error}")


async def _speak(caller: Caller, target: Target, text: str) -> Timing:
    answer = await caller.post(target.body(text))
    if answer.status != 200:
        raise SilentServerError(f"HTTP {answer.status}: {b''.join(answer.pieces).decode(errors='replace')}")
    if not answer.pieces:
        raise SilentServerError("HTTP 200 without audio")
    arrivals = [(at_s, len(piece)) for at_s, piece in zip(answer.arrived_s, answer.pieces, strict=True)]
    return measure(arrivals, answer.total_s, target.sample_rate_hz)


def measure(arrivals: Sequence[tuple[float, int]], total_s: float, sample_rate_hz: int) -> Timing:
    """What a request's `arrivals` (seconds since sending, bytes of 16-bit mono PCM) mean for its listener."""
    clock = PlayoutClock(sample_rate_hz)
    for arrived_s, size_bytes in arrivals:
        clock.arrived(size_bytes // _BYTES_PER_SAMPLE, arrived_s)
    heard = [(at_s, size / _BYTES_PER_SAMPLE / sample_rate_hz) for at_s, size in arrivals]
    return Timing.of(heard, total_s, clock.underruns, clock.starved_s)

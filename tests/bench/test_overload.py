"""Laws of the overload benchmark: what counts as delivered, and what as a clear refusal."""

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

import httpx2
import pytest

from benchmarks.overload import Phase, closed_loop, open_loop, run_phase
from stentor.bench.client import Target
from tests.bench.served import Handler, served

RATE_HZ = 24_000
REFUSAL = json.dumps({"error": {"message": "full", "code": "overloaded"}}).encode()


class Crowded(Handler, BaseHTTPRequestHandler):
    """Answers in turn: a second of audio, a clear refusal, one that does not say when to come back."""

    turns: ClassVar[Iterator[int]] = itertools.cycle(range(3))
    lock: ClassVar[threading.Lock] = threading.Lock()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        with self.lock:
            turn = next(self.turns)
        data = bytes(2 * RATE_HZ) if turn == 0 else REFUSAL
        when = {"retry_after": "1"} if turn == 1 else {}
        self.answer(data, 200 if turn == 0 else 503, **when)


@pytest.fixture
def url() -> Iterator[str]:
    with served(Crowded) as url:
        yield url


def phase(**known: object) -> Phase:
    return Phase(Target("http://nowhere"), httpx2.AsyncClient(), (10.0, 14.0), **known)  # type: ignore[arg-type]


def test_only_audio_within_the_window_counts() -> None:
    second = 2 * RATE_HZ
    came = [(9.9, second), (10.0, second), (13.9, second), (14.0, second)]
    row = phase(arrivals=came, sent_at=[9.0, 10.0, 11.0, 15.0], served_at=[13.0, 15.0]).row("peak", 2)
    assert row["audio_s_per_s"] == pytest.approx(2 / 4)
    assert row["offered_per_s"] == pytest.approx(2 / 4)
    assert row["requests_per_s"] == pytest.approx(1 / 4)


@pytest.mark.parametrize("offer", [closed_loop(3), open_loop(60)], ids=["closed", "open"])
def test_every_request_is_served_refused_or_unclear(url: str, offer: object) -> None:
    seen = asyncio.run(run_phase(Target(url, timeout_s=30), 0.0, 0.5, offer))  # type: ignore[arg-type]
    assert len(seen.sent_at) == len(seen.timings) + len(seen.refused_s) + len(seen.unclear)
    assert min(len(seen.timings), len(seen.refused_s), len(seen.unclear)) >= len(seen.sent_at) // 3
    assert len(seen.arrivals) >= len(seen.timings) == len(seen.served_at)
    assert all("HTTP 503" in told for told in seen.unclear)


def test_who_does_not_answer_is_unclear() -> None:
    seen = asyncio.run(run_phase(Target("http://127.0.0.1:9", timeout_s=5), 0.0, 0.05, open_loop(100)))
    assert len(seen.unclear) == len(seen.sent_at) > 0

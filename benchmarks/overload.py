"""Overload: what a server still delivers when four times as many requests come as it can serve.

Rounds of two phases. In the first as many callers as there are places each send their next request when the
last has ended: the peak. In the second, requests come at four times the peak's rate, whether or not earlier
ones have ended, and none is tried again. Each phase settles first; then, in a window of the same length,
audio counts that arrives of requests which are served to their end. A refusal is clear if it is a 503 or 429
with `Retry-After` and an error object. How many cores the client and the server had is told: where other
programs take some, a comparison of the two phases says nothing.

Prints a table, then one JSON line; the exit status is 1 if goodput is below 95 % of the peak or an answer was
neither audio nor a clear refusal.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil

from stentor.bench import report
from stentor.bench.client import Target, check_reachable, first_model, measure
from stentor.bench.level import Level, Timing, percentile
from stentor.bench.local_server import LocalServer
from stentor.bench.machine import load_average
from stentor.bench.texts import SENTENCES

FACTOR = 4
WANTED = 0.95
# No answer takes longer on a machine that could be measured at all.
TIMEOUT_S = 60.0


@dataclass
class Phase:
    """What became of the requests of one phase; the window is in seconds of `time.perf_counter()`.

    `arrivals` are the audio's, of served requests only: when it came, and how many bytes.
    """

    target: Target
    client: httpx2.AsyncClient
    window: tuple[float, float]
    sent_at: list[float] = field(default_factory=list)
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    served_at: list[float] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    client_cores: float = 0.0
    server_cores: float = 0.0

    async def ask(self) -> None:
        """Send the next request and note what comes of it."""
        text = SENTENCES[len(self.sent_at) % len(SENTENCES)]
        sent_at = time.perf_counter()
        self.sent_at.append(sent_at)
        speech, body = f"{self.target.url}/v1/audio/speech", self.target.body(text)
        try:
            async with self.client.stream("POST", speech, json=body) as response:
                if response.status_code == 200:
                    chunks = [(time.perf_counter(), len(chunk)) async for chunk in response.aiter_raw()]
                    self._note_speech(sent_at, chunks)
                else:
                    await response.aread()
                    self._note_refusal(response, time.perf_counter() - sent_at)
        except httpx2.HTTPError as error:
            self.unclear.append(f"{type(error).__name__}: {error}")

    def _note_speech(self, sent_at: float, chunks: list[tuple[float, int]]) -> None:
        if not chunks:
            self.unclear.append("HTTP 200 without audio")
            return
        now = time.perf_counter()
        since = [(at - sent_at, size) for at, size in chunks]
        self.timings.append(measure(since, now - sent_at, self.target.sample_rate_hz))
        self.arrivals += chunks
        self.served_at.append(now)

    def _note_refusal(self, response: httpx2.Response, answered_s: float) -> None:
        try:
            said = response.json()["error"]["code"]
        except (ValueError, LookupError, TypeError):
            said = None
        if response.status_code in (429, 503) and said and "Retry-After" in response.headers:
            self.refused_s.append(answered_s)
        else:
            self.unclear.append(f"HTTP {response.status_code}: {response.text[:200]}")

    def row(self, name: str, concurrency: int) -> dict[str, Any]:
        """The report's figures; rates are of the window."""
        length_s = self.window[1] - self.window[0]
        in_window = [size for at, size in self.arrivals if self._counts(at)]
        audio_s = sum(in_window) / 2 / self.target.sample_rate_hz
        level = Level(concurrency, length_s, self.timings, self.unclear, load_average())
        slowest_s = percentile(self.refused_s, 95)
        return level.row() | {
            "phase": name,
            "offered_per_s": round(sum(map(self._counts, self.sent_at)) / length_s, 1),
            "refused": len(self.refused_s),
            "refused_p95_ms": None if slowest_s is None else round(1000 * slowest_s, 1),
            "audio_s_per_s": round(audio_s / length_s, 2),
            "requests_per_s": round(sum(map(self._counts, self.served_at)) / length_s, 2),
            "client_cores": round(self.client_cores, 3),
            "server_cores": round(self.server_cores, 2),
        }

    def _counts(self, at: float) -> bool:
        return self.window[0] <= at < self.window[1]


async def run_phase(
    target: Target, settle_s: float, seconds: float, offer: Callable[[Phase], Awaitable[None]]
) -> Phase:
    """Let `offer` send requests until the window's end, and wait for all answers."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
    async with httpx2.AsyncClient(timeout=target.timeout_s, limits=limits, trust_env=False) as client:
        began_at, client_cpu_s, server_cpu_s = time.perf_counter(), time.process_time(), _server_cpu_s()
        phase = Phase(target, client, (began_at + settle_s, began_at + settle_s + seconds))
        await offer(phase)
        length_s = time.perf_counter() - began_at
        phase.client_cores = (time.process_time() - client_cpu_s) / length_s
        phase.server_cores = (_server_cpu_s() - server_cpu_s) / length_s
    return phase


def _server_cpu_s() -> float:
    """CPU seconds of the server so far, all of its processes together: our only children."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return float(sum(used.user + used.system for used in times))


def closed_loop(callers: int) -> Callable[[Phase], Awaitable[None]]:
    """So many callers, each of whom asks again when it is answered."""

    async def call(phase: Phase) -> None:
        while time.perf_counter() < phase.window[1]:
            await phase.ask()

    async def offer(phase: Phase) -> None:
        await asyncio.gather(*(call(phase) for _ in range(callers)))

    return offer


def open_loop(rate_per_s: float) -> Callable[[Phase], Awaitable[None]]:
    """So many requests a second, evenly, whatever becomes of them."""

    async def offer(phase: Phase) -> None:
        due_at = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while due_at < phase.window[1]:
                await asyncio.sleep(due_at - time.perf_counter())
                group.create_task(phase.ask())
                due_at += 1 / rate_per_s

    return offer


def run_round(target: Target, places: int, settle_s: float, seconds: float) -> list[dict[str, Any]]:
    """The peak, then the overload; a row for each."""
    closed = asyncio.run(run_phase(target, settle_s, seconds, closed_loop(places)))
    peak = closed.row(f"{places} callers", places)
    rate_per_s = FACTOR * peak["requests_per_s"]
    if not rate_per_s:
        raise SystemExit(f"nothing was served within {seconds:g} s: allow more with --seconds")
    opened = asyncio.run(run_phase(target, settle_s, seconds, open_loop(rate_per_s)))
    overload = opened.row(f"{FACTOR} times as many", FACTOR * places)
    overload["ratio_to_peak"] = round(overload["audio_s_per_s"] / peak["audio_s_per_s"], 3)
    for unclear in [*closed.unclear, *opened.unclear][:5]:
        print(f"neither served nor clearly refused: {unclear}", file=sys.stderr)
    return [peak, overload]


def main() -> None:
    """Start a server, run the rounds, save the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--places", type=int, default=32, help="the server's --max-requests")
    parser.add_argument("--settle", type=float, default=5.0, help="seconds before each window")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each window")
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    places = options.places
    # A line in the log for each request would be a part of what is measured.
    with LocalServer(["--max-requests", str(places), "--log-level", "warning"]) as server:
        target = Target(server.url, first_model(server.url), timeout_s=TIMEOUT_S)
        check_reachable(target)
        rounds = [run_round(target, places, options.settle, options.seconds) for _ in range(options.rounds)]
    rows = [row for pair in rounds for row in pair]
    goodput = statistics.median(overload["ratio_to_peak"] for _, overload in rounds)
    settings = {"max_requests": places, "settle_s": options.settle, "window_s": options.seconds}
    document = report.document("overload", target.model, [], settings | {"goodput_of_peak": goodput})
    document |= {"rows": rows, "columns": COLUMNS}
    print(f"goodput is {goodput:.1%} of the peak (median of {options.rounds} rounds)")
    report.publish(document, options.save)
    sys.exit(goodput < WANTED or any(row["errors"] for row in rows))


COLUMNS = {
    "phase": "phase",
    "offered req/s": "offered_per_s",
    "served req/s": "requests_per_s",
    "audio s/s": "audio_s_per_s",
    "of the peak": "ratio_to_peak",
    "refused": "refused",
    "refused p95 ms": "refused_p95_ms",
    "unclear": "errors",
    "TTFA p50 ms": "ttfa_p50_ms",
    "TTFA p95 ms": "ttfa_p95_ms",
    "client's cores": "client_cores",
    "server's cores": "server_cores",
    "load": "load",
}


if __name__ == "__main__":
    main()

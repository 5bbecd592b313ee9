"""Overload: what a server still delivers when four times as many requests come as it can serve.

Rounds of two phases: a closed loop that fills every place (its rate is the peak), then requests at four
times that rate, whether or not earlier ones have ended, none of them tried again. Goodput is the audio of
those that were served to their end, over the time until the last of them ended. A refusal is clear if it is
a 503 or 429 with `Retry-After` and an error object. Prints a table, then one JSON line.
"""

import argparse
import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from stentor.bench import report
from stentor.bench.client import Target, check_reachable, first_model, measure, run_level
from stentor.bench.level import Level, Timing
from stentor.bench.local_server import LocalServer
from stentor.bench.machine import load_average
from stentor.bench.texts import texts

PLACES = 32
FACTOR = 4


@dataclass
class Offered:
    """What became of the requests of one phase; `answered_s` are the refusals' times to answer."""

    timings: list[Timing] = field(default_factory=list)
    answered_s: list[float] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)


async def offer(target: Target, rate_per_s: float, seconds: float) -> tuple[Level, Offered]:
    """Send requests at a steady rate for so long, and wait for all of them to end."""
    seen = Offered()
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=PLACES)
    async with httpx2.AsyncClient(timeout=target.timeout_s, limits=limits, trust_env=False) as client:
        began_s = time.perf_counter()
        said = texts(max(1, round(rate_per_s * seconds)))
        async with asyncio.TaskGroup() as group:
            for number, text in enumerate(said):
                await asyncio.sleep(max(0.0, began_s + number / rate_per_s - time.perf_counter()))
                group.create_task(_try(client, target, text, seen))
        wall_s = time.perf_counter() - began_s
    return Level(FACTOR * PLACES, wall_s, seen.timings, seen.unclear, load_average()), seen


async def _try(client: httpx2.AsyncClient, target: Target, text: str, seen: Offered) -> None:
    sent_s = time.perf_counter()
    try:
        async with client.stream("POST", f"{target.url}/v1/audio/speech", json=target.body(text)) as response:
            if response.status_code != 200:
                await response.aread()
                return _note_refusal(response, time.perf_counter() - sent_s, seen)
            arrivals = [(time.perf_counter() - sent_s, len(chunk)) async for chunk in response.aiter_raw()]
    except httpx2.HTTPError as error:
        seen.unclear.append(f"{type(error).__name__}: {error}")
        return None
    if arrivals:
        total_s = time.perf_counter() - sent_s
        seen.timings.append(measure(arrivals, total_s, target.sample_rate_hz))
    else:
        seen.unclear.append("HTTP 200 without audio")
    return None


def _note_refusal(response: httpx2.Response, answered_s: float, seen: Offered) -> None:
    try:
        said = response.json()["error"]["code"]
    except (ValueError, LookupError, TypeError):
        said = None
    if response.status_code in (429, 503) and said and "Retry-After" in response.headers:
        seen.answered_s.append(answered_s)
    else:
        seen.unclear.append(f"HTTP {response.status_code}: {response.text[:200]}")


def run_round(target: Target, seconds: float) -> list[dict[str, Any]]:
    """One closed loop, then the overload; a row for each."""
    closed = asyncio.run(_fill(target, seconds))
    rate_per_s = FACTOR * len(closed.timings) / closed.wall_s
    level, seen = asyncio.run(offer(target, rate_per_s, seconds))
    slowest_s = max(seen.answered_s, default=0.0)
    overload = {
        "phase": f"{FACTOR} times as many",
        "offered_per_s": round(rate_per_s, 1),
        "refused": len(seen.answered_s),
        "refused_max_ms": round(1000 * slowest_s),
    }
    closed_row = {"phase": f"{PLACES} callers", "offered_per_s": None, "refused": 0}
    return [closed.row() | closed_row, level.row() | overload]


async def _fill(target: Target, seconds: float) -> Level:
    """A closed loop of about that many seconds: as many callers as there are places."""
    probe = await run_level(target, texts(2 * PLACES), PLACES)
    count = round(len(probe.timings) / probe.wall_s * seconds)
    return await run_level(target, texts(max(count, PLACES)), PLACES)


def main() -> None:
    """Start a server, run the rounds, save the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each phase")
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    with LocalServer(["--max-requests", str(PLACES)]) as server:
        target = Target(server.url, first_model(server.url))
        check_reachable(target)
        rows = [row for _ in range(options.rounds) for row in run_round(target, options.seconds)]
    closed, overload = rows[::2], rows[1::2]
    peak = statistics.median(row["audio_s_per_s"] for row in closed)
    goodput = statistics.median(row["audio_s_per_s"] for row in overload)
    settings = {"max_requests": PLACES, "rounds": options.rounds, "seconds": options.seconds}
    settings["goodput_of_peak"] = round(goodput / peak, 3)
    document = report.document("overload", target.model, [], settings) | {"rows": rows}
    print(report.headline(document))
    print(report.table(rows))
    print(f"goodput is {goodput / peak:.1%} of the peak (medians of {options.rounds} rounds)")
    if options.save is not None:
        print(f"saved as {report.save(document, options.save)}")
    print(json.dumps(document))


if __name__ == "__main__":
    main()

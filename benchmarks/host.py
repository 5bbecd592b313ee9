"""What the host costs around a card of given speed: no GPU is needed, and none is used.

    python -m benchmarks.host [--concurrency 1,16,64] [--requests 3] [--times '{"round_ms": 0.3}']

The real server, pipeline, scheduler and stages serve real HTTP callers; only kernels are sleeps (`stand_in`).
So TTFA and throughput are those of host work and scheduling at these times, not those of any card. The CPU
times say what each process spends: on a machine with cores for all of them they run beside one another, on
one core one behind the other.
"""

import asyncio
import json
import re
import time
from typing import Any

import httpx2
import psutil

from benchmarks import stand_in, subject
from benchmarks.latency import COLUMNS as LATENCY
from stentor.bench.client import Target, check_reachable, first_model, run_level
from stentor.bench.local_server import LocalServer

COLUMNS = {
    **{heading: key for heading, key in LATENCY.items() if key not in ("itl_p50_ms", "itl_p99_ms", "load")},
    "steps": "steps",
    "card busy": "card_busy",
    "engine, vocoder: ms a step": "engine_ms",
    "texts: ms a request": "frontend_ms",
    "HTTP: ms a request": "http_ms",
    "client": "client_ms",
    "load": "load",
}


def main() -> None:
    """Parse, measure, publish."""
    parser = subject.make_parser(__doc__)
    parser.add_argument("--concurrency", default="1,16,64")
    parser.add_argument("--requests", type=int, default=3, help="requests of each caller")
    parser.add_argument("--seconds", type=int, choices=(4, 10), default=10, help="length of an utterance")
    parser.add_argument("--times", default="{}", help="JSON of `stand_in.Times`; by default an H200's")
    arguments = parser.parse_args()
    arguments.real_shape = True
    levels = [int(level) for level in arguments.concurrency.split(",")]
    most = str(max(levels))
    options = ["--load-format", "dummy", "--log-level", "warning", "--overlap", "on"]
    options += ["--max-running-requests", most, "--max-requests", str(2 * max(levels))]
    environment = {stand_in.VARIABLE: arguments.times}
    with subject.opened(arguments) as (model, _):
        module, words = "benchmarks.stand_in", [model, *options]
        with LocalServer(words, environment=environment, module=module) as server:
            rows = measure(server.url, levels, arguments.requests, arguments.seconds)
    settings = {"requests_per_caller": arguments.requests, "utterance_s": arguments.seconds}
    times = json.loads(arguments.times)
    subject.publish("host", "stand-in", rows, COLUMNS, {**settings, "times": times}, arguments.save)


def measure(url: str, levels: list[int], requests: int, seconds: int) -> list[dict[str, Any]]:
    """One row for each concurrency."""
    extra = {"max_new_tokens": subject.rows_of(seconds), "seed": 1}
    target = Target(url, first_model(url), extra=extra)
    check_reachable(target)
    rows = (_level(target, subject.utterances(level * requests, seconds), level) for level in levels)
    return list(subject.told(rows))


def _level(target: Target, texts: list[str], concurrency: int) -> dict[str, Any]:
    cpu_s, card, began_s = _cpu_s(), _card(target.url), time.perf_counter()
    row = asyncio.run(run_level(target, texts, concurrency)).row()
    spent_ms = {name: 1e3 * (now_s - cpu_s[name]) for name, now_s in _cpu_s().items()}
    took_s = time.perf_counter() - began_s
    steps, busy_s = (after - before for after, before in zip(_card(target.url), card, strict=True))
    row |= {"steps": round(steps), "card_busy": round(busy_s / took_s, 3)}
    row["engine_ms"] = round(spent_ms.pop("engine") / steps, 3)
    return row | {f"{name}_ms": round(ms / len(texts), 2) for name, ms in spent_ms.items()}


def _cpu_s() -> dict[str, float]:
    """CPU seconds so far of this process, of the server's, and of its workers by the order of their start."""
    # Its own is the youngest, if whoever runs it has other children.
    server = max(psutil.Process().children(), key=psutil.Process.create_time)
    workers = sorted(server.children(), key=lambda process: process.pid)
    processes = [psutil.Process(), server, *workers]
    times = [process.cpu_times() for process in processes]
    names = ("client", "http", "frontend", "engine")
    return {name: spent.user + spent.system for name, spent in zip(names, times, strict=True)}


def _card(url: str) -> tuple[float, float]:
    """Steps so far, and seconds for which the card was busy. Gauges are read four times a second."""
    time.sleep(0.5)
    told = httpx2.get(f"{url}/metrics", trust_env=False).text
    found = [
        re.search(rf'stentor_stage_{name}{{stage="generate"}} (\S+)', told)
        for name in ("steps", "card_busy_s")
    ]
    assert all(found), "the stand-in's engine tells both"
    steps, busy_s = (float(match[1]) for match in found if match)
    return steps, busy_s


if __name__ == "__main__":
    main()

"""When a listener hears something: TTFA, pauses between chunks, and whether a player would have run dry.

    python -m benchmarks.latency [MODEL] [--real-shape] [--concurrency 1,2,4,8] [--requests 4] [--url URL]

Streamed PCM over HTTP in a closed loop, played by a simulated listener who starts at the first chunk.
"""

import asyncio
import contextlib
from typing import Any

from benchmarks import subject
from stentor.bench.client import Target, check_reachable, first_model, run_level
from stentor.bench.local_server import LocalServer
from stentor.models import registry

COLUMNS = {
    "concurrency": "concurrency",
    "requests": "requests",
    "TTFA p50 ms": "ttfa_p50_ms",
    "p95": "ttfa_p95_ms",
    "p99": "ttfa_p99_ms",
    "chunk p50 ms": "itl_p50_ms",
    "p95 ": "itl_p95_ms",
    "p99 ": "itl_p99_ms",
    "underruns": "underruns",
    "starved s": "starved_s",
    "audio s/s": "audio_s_per_s",
    "errors": "errors",
    "load": "load",
}


def main() -> None:
    """Parse, measure, publish."""
    parser = subject.make_parser(__doc__)
    parser.add_argument("--concurrency", default="1,2,4,8")
    parser.add_argument("--requests", type=int, default=4, help="requests of each caller")
    parser.add_argument("--seconds", type=int, choices=(4, 10), default=10, help="length of an utterance")
    parser.add_argument("--beside-engine", default="auto", help="see the setting of that name")
    parser.add_argument("--url", help="a running server; by default one is started")
    arguments = parser.parse_args()
    levels = [int(level) for level in arguments.concurrency.split(",")]
    with subject.opened(arguments) as (model, load_format), contextlib.ExitStack() as stack:
        url = arguments.url
        if url is None:
            options = [*([model] if model else []), "--load-format", load_format, "--log-level", "warning"]
            options += ["--beside-engine", arguments.beside_engine]
            options += ["--max-running-requests", str(max(levels)), "--max-requests", str(2 * max(levels))]
            url = stack.enter_context(LocalServer(options, timeout_s=600.0)).url
        name = registry.resolve(model).name if arguments.url is None else first_model(url) or url
        rows = measure(url, levels, arguments.requests, arguments.seconds)
    settings: dict[str, Any] = {"requests_per_caller": arguments.requests, "utterance_s": arguments.seconds}
    settings["beside_engine"] = arguments.beside_engine
    suffix = "" if arguments.beside_engine == "auto" else f"-beside-{arguments.beside_engine}"
    subject.publish("latency" + suffix, name, rows, COLUMNS, settings, arguments.save)


def measure(url: str, levels: list[int], requests: int, seconds: int) -> list[dict[str, Any]]:
    """One row for each concurrency."""
    extra = {"max_new_tokens": subject.rows_of(seconds), "seed": 1}
    target = Target(url, first_model(url), extra=extra)
    check_reachable(target)
    rows = (
        asyncio.run(run_level(target, subject.utterances(level * requests, seconds), level)).row()
        for level in levels
    )
    return list(subject.told(rows))


if __name__ == "__main__":
    main()

"""Audio per second of the engine alone, and end to end over HTTP, streamed and whole, short and long.

    python -m benchmarks.throughput [MODEL] [--real-shape] [--concurrency 1,4,16] [--requests 2]

A closed loop: each caller sends its next request when its last has ended. `stentor.bench` makes the load.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

from benchmarks import subject
from stentor.bench import engine as engine_bench
from stentor.bench.client import Target, check_reachable, first_model, run_level
from stentor.bench.local_server import LocalServer
from stentor.config import Config, override
from stentor.models import registry
from stentor.request import Prompt, SamplingParams, SpeechRequest
from stentor.stages.inline import InlineStages

COLUMNS = {
    "what": "what",
    "utterance s": "seconds",
    "concurrency": "concurrency",
    "audio s/s": "audio_s_per_s",
    "req/s": "requests_per_s",
    "TTFA p50 ms": "ttfa_p50_ms",
    "RTF p50": "rtf_p50",
    "underruns": "underruns",
    "errors": "errors",
    "load": "load",
}
Rows = Iterator[dict[str, Any]]


def engine_rows(model: str, load_format: str, levels: list[int], requests: int) -> Rows:
    """The generate stage alone, in this process."""
    settings = {
        "model": {"model": model, "load_format": load_format},
        "engine": {"max_running_requests": max(levels)},
    }
    config = override(Config(), settings)
    folder = registry.resolve(model)
    described = registry.model_for(folder)
    info = described.describe(folder)
    specs = {spec.name: spec for spec in described.stages(folder, config)}
    frame_s = info.samples_per_frame / info.sample_rate_hz
    stage = specs["generate"].build(**specs["generate"].options)
    with InlineStages([specs["preprocess"]]) as preprocess:
        for seconds in (4, 10):
            for level in levels:
                prompts = list(_prompts(preprocess, level * requests, seconds))
                row = engine_bench.run_level(stage, prompts, level, frame_s).row()
                yield {"what": "engine", "seconds": seconds, **row}
    stage.close()


def _prompts(preprocess: InlineStages, count: int, seconds: int) -> Iterator[Prompt]:
    sampling = SamplingParams(seed=1, max_new_tokens=subject.rows_of(seconds))
    for index, text in enumerate(subject.utterances(count, seconds)):
        request = SpeechRequest(f"bench-{index}", text, sampling=sampling)
        for record in preprocess.run(request.request_id, request):
            assert isinstance(record, Prompt)
            yield record


def server_rows(model: str, load_format: str, levels: list[int], requests: int) -> Rows:
    """A server of our own, over HTTP."""
    most = max(levels)
    arguments = [*([model] if model else []), "--load-format", load_format, "--log-level", "warning"]
    arguments += ["--max-running-requests", str(most), "--max-requests", str(2 * most)]
    with LocalServer(arguments, timeout_s=600.0) as server:
        for stream in (True, False):
            for seconds in (4, 10):
                extra = {"stream": stream, "max_new_tokens": subject.rows_of(seconds), "seed": 1}
                target = Target(server.url, first_model(server.url), extra=extra)
                check_reachable(target)
                for level in levels:
                    texts = subject.utterances(level * requests, seconds)
                    row = asyncio.run(run_level(target, texts, level)).row()
                    what = "HTTP, streamed" if stream else "HTTP, whole"
                    if not stream:
                        row["underruns"] = None
                    yield {"what": what, "seconds": seconds, **row}


def main() -> None:
    """Parse, measure, publish."""
    parser = subject.make_parser(__doc__)
    parser.add_argument("--concurrency", default="1,4,16")
    parser.add_argument("--requests", type=int, default=2, help="requests of each caller")
    parser.add_argument("--only", choices=("engine", "http"), help="one half of it")
    arguments = parser.parse_args()
    levels = [int(level) for level in arguments.concurrency.split(",")]
    rows: list[dict[str, Any]] = []
    with subject.opened(arguments) as opened:
        name = registry.resolve(opened[0]).name
        if arguments.only != "http":
            rows += subject.told(engine_rows(*opened, levels, arguments.requests))
        if arguments.only != "engine":
            rows += subject.told(server_rows(*opened, levels, arguments.requests))
    settings = {"requests_per_caller": arguments.requests}
    benchmark = f"throughput-{arguments.only}" if arguments.only else "throughput"
    subject.publish(benchmark, name, rows, COLUMNS, settings, arguments.save)


if __name__ == "__main__":
    main()

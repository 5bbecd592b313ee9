"""How fast the engine alone turns prompts into frames, against the plain way to run the same model."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stentor.bench.level import Level, Timing
from stentor.bench.machine import load_average
from stentor.bench.texts import texts
from stentor.config import Config, override
from stentor.errors import from_failure
from stentor.models import registry
from stentor.request import Frames, ModelInfo, Prompt, SamplingParams, SpeechRequest
from stentor.stages.base import Payload, Stage, StageSpec
from stentor.stages.inline import InlineStages

Progress = Callable[[str], None]


@dataclass(frozen=True)
class EngineResult:
    """The engine's levels, and the plain loop's on the same prompts (None: the model has no such loop)."""

    info: ModelInfo
    levels: Sequence[Level]
    plain: Level | None


def measure(config: Config, concurrencies: Sequence[int], requests: int, progress: Progress) -> EngineResult:
    """Run `requests` prompts per caller at each concurrency.

    Raises:
        StentorError: the checkpoint or a setting is wrong.
    """
    # Read once by torch's pool when it is first imported, which is below here.
    os.environ.setdefault("OMP_NUM_THREADS", str(config.pipeline.threads_per_worker))
    config = override(config, {"engine": {"max_running_requests": max(concurrencies)}})
    folder = registry.resolve(config.model.model)
    model = registry.model_for(folder)
    info = model.describe(folder)
    specs = {spec.name: spec for spec in model.stages(folder, config)}
    progress("preparing prompts")
    prompts = _prompts(specs["preprocess"], max(concurrencies) * requests)
    plain = _measure_plain(model.plain_loop(folder, config), prompts[: 2 * requests], info, progress)
    generate = specs["generate"]
    progress("loading the engine")
    stage = generate.build(**generate.options)
    frame_s = info.samples_per_frame / info.sample_rate_hz
    run_level(stage, prompts[:2], 1, frame_s)  # warm up
    levels = []
    for concurrency in concurrencies:
        progress(f"concurrency {concurrency}")
        levels.append(run_level(stage, prompts[: concurrency * requests], concurrency, frame_s))
    stage.close()
    return EngineResult(info, levels, plain)


def run_level(stage: Stage, prompts: Iterable[Prompt], concurrency: int, frame_s: float) -> Level:
    """All prompts through a generate stage, `concurrency` in flight: a new one goes in when one has ended."""
    waiting = deque(prompts)
    flights: dict[str, tuple[float, list[tuple[float, float]]]] = {}
    timings: list[Timing] = []
    started_s = time.perf_counter()
    while waiting or flights:
        while waiting and len(flights) < concurrency:
            prompt = waiting.popleft()
            flights[prompt.request.request_id] = time.perf_counter(), []
            stage.add(Payload(prompt.request.request_id, prompt, last=True))
        for payload in stage.step():
            if payload.failure is not None:
                raise from_failure(payload.failure)
            assert isinstance(payload.data, Frames)
            sent_s, arrivals = flights[payload.request_id]
            now_s = time.perf_counter() - sent_s
            if len(payload.data.codes):
                arrivals.append((now_s, len(payload.data.codes) * frame_s))
            if payload.last:
                del flights[payload.request_id]
                timings.append(Timing.of(arrivals, now_s))
    return Level(concurrency, time.perf_counter() - started_s, timings, load=load_average())


def _prompts(spec: StageSpec, count: int) -> list[Prompt]:
    with InlineStages([spec]) as stages:
        found = []
        for index, text in enumerate(texts(count)):
            request = SpeechRequest(f"bench-{index}", text, sampling=SamplingParams(seed=index))
            found += [
                record for record in stages.run(request.request_id, request) if isinstance(record, Prompt)
            ]
    return found


def _measure_plain(
    loop: Callable[[Prompt], int] | None, prompts: Sequence[Prompt], info: ModelInfo, progress: Progress
) -> Level | None:
    if loop is None:
        return None
    frame_s = info.samples_per_frame / info.sample_rate_hz
    progress("plain loop")
    loop(prompts[0])  # warm up
    timings = []
    started_s = time.perf_counter()
    for prompt in prompts:
        sent_s = time.perf_counter()
        frames = loop(prompt)
        took_s = time.perf_counter() - sent_s
        timings.append(Timing(took_s, took_s, frames * frame_s))
    return Level(1, time.perf_counter() - started_s, timings, load=load_average())

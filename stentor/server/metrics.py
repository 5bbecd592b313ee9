"""Knows what is measured of a request (TTFA, RTF, underruns) and of the pipeline, and tells Prometheus."""

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from stentor.playout import PlayoutClock

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TTFA_BUCKETS_S = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
_REQUEST_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
_LENGTH_BUCKETS_S = (0.5, 1, 2, 3, 5, 8, 12, 20, 30, 60, 120, 300)
# With a bound at 0, which says how many had none, and at 0.1, as others define continuity.
_UNDERRUN_BUCKETS_S = (0, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_RTF_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1, 1.25, 1.5, 2, 3, 5)


# What the stages tell of themselves (`Stage.stats`), as they are explained.
STAGE_GAUGES = {
    "requests_known": "Requests that the stage's worker holds, or whose abort has not passed yet.",
    "references_loading": "Recordings being fetched and decoded.",
    "transcripts_waiting": "Requests waiting for what their recording says.",
    "recordings_heard": "Recordings that the recogniser has listened to.",
    "references_waiting": "Prompts waiting for the encoder.",
    "reference_cache_bytes": "Memory of the cache of encoded references.",
    "reference_cache_hits": "References found in the cache.",
    "reference_cache_misses": "References encoded.",
    "sequences_running": "Sequences that decode together.",
    "sequences_waiting": "Sequences that wait for a place or for blocks.",
    "kv_blocks_used": "Blocks of the KV cache that belong to sequences.",
    "kv_blocks_total": "Blocks of the KV cache that there are.",
    "prefill_tokens": "Prompt positions computed.",
    "prefix_cached_tokens": "Prompt positions found in the prefix cache instead.",
    "preemptions": "Sequences that made room for others.",
    "streams": "Streams under way.",
    "underruns": "Chunks that came after their listener had run dry.",
    "round_s": "Seconds that a round usually takes.",
}


class StagePassage(Protocol):
    """When a request came to a stage, and the stage's first and last results left it; None if none did.

    Times are of `time.monotonic()`.
    """

    @property
    def stage(self) -> str: ...
    @property
    def came_s(self) -> float: ...
    @property
    def first_s(self) -> float | None: ...
    @property
    def last_s(self) -> float | None: ...


class Metrics:
    """All series of one server, in a registry of its own.

    `pipeline_stats` gives, when asked, what `Pipeline.stats` does.
    """

    def __init__(self, pipeline_stats: Callable[[], Mapping[str, Any]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_PipelineCollector(pipeline_stats))
        counter = functools.partial(Counter, registry=self.registry)
        histogram = functools.partial(Histogram, registry=self.registry)
        self.responses = counter("stentor_http_responses", "HTTP responses by status.", ["status"])
        self.requests = counter(
            "stentor_speech_requests",
            "Ended speech requests by outcome and finish reason.",
            ["outcome", "finish_reason"],
        )
        self.in_flight = Gauge(
            "stentor_speech_in_flight", "Speech requests being answered.", registry=self.registry
        )
        self.ttfa = histogram(
            "stentor_ttfa_seconds",
            "Seconds from a request to its first audio.",
            ["streamed"],
            buckets=_TTFA_BUCKETS_S,
        )
        self.duration = histogram(
            "stentor_speech_request_seconds",
            "Seconds from a request to its end, if done.",
            buckets=_REQUEST_BUCKETS_S,
        )
        self.length = histogram(
            "stentor_audio_length_seconds",
            "Seconds of audio of a request, if done.",
            buckets=_LENGTH_BUCKETS_S,
        )
        self.rtf = histogram(
            "stentor_rtf", "Seconds taken per second of audio, if done.", buckets=_RTF_BUCKETS
        )
        self.audio = counter("stentor_audio_seconds", "Seconds of audio handed out.")
        self.tokens = counter(
            "stentor_tokens", "Positions of prompts, and rows generated, if done.", ["kind"]
        )
        self.underruns = counter(
            "stentor_underruns", "Times that a listener playing along ran dry in a stream."
        )
        self.starved = counter("stentor_underrun_seconds", "Seconds that such listeners waited.")
        self.longest_underrun = histogram(
            "stentor_longest_underrun_seconds",
            "The longest of such waits in each stream that brought audio; 0 if there was none.",
            buckets=_UNDERRUN_BUCKETS_S,
        )
        self.stage_first = histogram(
            "stentor_stage_first_result_seconds",
            "Seconds from a request's coming to a stage until the stage's first result for it.",
            ["stage"],
            buckets=_TTFA_BUCKETS_S,
        )
        self.websockets = Gauge("stentor_websockets", "Open WebSockets.", registry=self.registry)
        self.streams = counter(
            "stentor_streams",
            "Streams that brought audio, by continuity (kept, broken).",
            ["continuity"],
        )

    def measure(self, sample_rate_hz: int, *, streamed: bool) -> "RequestMeter":
        """Begin to measure a request, now."""
        return RequestMeter(self, sample_rate_hz, streamed)

    def record(self, meter: "RequestMeter") -> None:
        """Count a request that has ended."""
        self.in_flight.dec()
        self.requests.labels(meter.outcome, meter.finish_reason).inc()
        self.tokens.labels("prompt").inc(meter.prompt_tokens)
        self.tokens.labels("completion").inc(meter.completion_tokens)
        if meter.streamed and meter.audio_s > 0:
            self.underruns.inc(meter.clock.underruns)
            self.starved.inc(meter.clock.starved_s)
            self.longest_underrun.observe(meter.clock.longest_s)
            self.streams.labels("broken" if meter.clock.underruns else "kept").inc()
        if meter.rtf is not None:
            self.duration.observe(meter.taken_s)
            self.length.observe(meter.audio_s)
            self.rtf.observe(meter.rtf)

    def passed(self, _request_id: str, times: Iterable[StagePassage]) -> None:
        """Count how long each stage took over a request; for `Pipeline.when_passed`."""
        for one in times:
            if one.first_s is not None:
                self.stage_first.labels(one.stage).observe(one.first_s - one.came_s)

    def render(self) -> bytes:
        """Everything in Prometheus's text format (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)


class RequestMeter:
    """Measures one speech request from its beginning to its one end; its figures go to `Metrics` then.

    `started_s` is a time of `time.monotonic()`; `taken_s`, `outcome`, `finish_reason` and the tokens are
    those of the end.
    """

    def __init__(self, metrics: Metrics, sample_rate_hz: int, streamed: bool) -> None:
        self.streamed = streamed
        self.started_s = time.monotonic()
        self.ttfa_s: float | None = None
        self.audio_s = 0.0
        self.clock = PlayoutClock(sample_rate_hz)
        self.taken_s = 0.0
        self.outcome = ""
        self.finish_reason = ""
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self._metrics = metrics
        self._sample_rate_hz = sample_rate_hz
        metrics.in_flight.inc()

    @property
    def rtf(self) -> float | None:
        """Seconds taken per second of audio, if it is done and there was some."""
        return self.taken_s / self.audio_s if self.outcome == "done" and self.audio_s else None

    def heard(self, num_samples: int) -> None:
        """Samples are there for the caller, now; none are no audio."""
        if num_samples == 0:
            return
        now_s = time.monotonic()
        if self.ttfa_s is None:
            self.ttfa_s = now_s - self.started_s
            self._metrics.ttfa.labels(str(self.streamed).lower()).observe(self.ttfa_s)
        self.clock.arrived(num_samples, now_s)
        self.audio_s += num_samples / self._sample_rate_hz
        self._metrics.audio.inc(num_samples / self._sample_rate_hz)

    def end(
        self, outcome: str, *, finish_reason: str = "", prompt_tokens: int = 0, completion_tokens: int = 0
    ) -> float:
        """Record how the request ended, at most once; gives the seconds it took."""
        if not self.outcome:
            self.taken_s = time.monotonic() - self.started_s
            self.outcome, self.finish_reason = outcome, finish_reason
            self.prompt_tokens, self.completion_tokens = prompt_tokens, completion_tokens
            self._metrics.record(self)
        return self.taken_s


class _PipelineCollector:
    """Asks the pipeline at each scrape: its requests, each stage's gauges, its links and workers."""

    def __init__(self, pipeline_stats: Callable[[], Mapping[str, Any]]) -> None:
        self._pipeline_stats = pipeline_stats

    def describe(self) -> Iterable[Metric]:
        # Nothing to ask before the first scrape.
        return []

    def collect(self) -> Iterable[Metric]:
        stats = self._pipeline_stats()
        yield _gauge("requests", "Requests in the house, by state.", "state", stats["requests"])
        yield _gauge("link_messages", "Messages under way to a stage.", "stage", stats["links"])
        by_name: dict[str, dict[str, float]] = {}
        for stage, gauges in stats["stages"].items():
            for name, value in gauges.items():
                by_name.setdefault(name, {})[stage] = value
        for name, values in by_name.items():
            about = STAGE_GAUGES.get(name, f"{name.replace('_', ' ').capitalize()} of a stage.")
            yield _gauge(f"stage_{name}", about, "stage", values)
        ready = {worker: state["ready"] for worker, state in stats["workers"].items()}
        yield _gauge("worker_ready", "Whether a worker is up.", "worker", ready)
        restarts = CounterMetricFamily(
            "stentor_worker_restarts", "Times that a worker was started again.", labels=["worker"]
        )
        for worker, state in stats["workers"].items():
            restarts.add_metric([worker], state["restarts"])
        yield restarts


def _gauge(name: str, about: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"stentor_{name}", about, labels=[label])
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family

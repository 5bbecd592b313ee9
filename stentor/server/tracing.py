"""Knows how a speech request is told to OpenTelemetry: a span for it, and one for each stage it passed.

Where spans go is said by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`,
`OTEL_TRACES_SAMPLER`). Nothing of it is imported unless tracing is on.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import stentor
from stentor.errors import ConfigError
from stentor.server.metrics import RequestMeter, StagePassage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

# Requests of which one half was heard, and not yet the other; more than can be in the house.
_MOST_PENDING = 10_000


@dataclass
class _Pending:
    """A request of which `num_missing` parts have not passed yet; None while nobody knows how many it has."""

    span: "Span | None" = None
    num_missing: int | None = None
    passed: "list[tuple[str, Sequence[StagePassage]]]" = field(default_factory=list)


class Tracer:
    """Makes spans of requests that have ended; both halves may come first, from different threads.

    The parts of a text that is said in parts are requests of the pipeline, and one for their caller.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("stentor", stentor.__version__)
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._lock = threading.Lock()

    def ended(
        self, request_id: str, meter: RequestMeter, trace: Mapping[str, str], num_parts: int = 1, **facts: Any
    ) -> None:
        """A request has ended for its caller, of which the pipeline got `num_parts`.

        `trace` are the caller's headers, `facts` more attributes.
        """
        from opentelemetry import propagate
        from opentelemetry.trace import SpanKind, Status, StatusCode

        span = self._tracer.start_span(
            "speech",
            context=propagate.extract(trace),
            kind=SpanKind.SERVER,
            start_time=_wall_ns(meter.started_s),
            attributes=_attributes(request_id, meter, facts),
        )
        if meter.ttfa_s is not None:
            span.add_event("first audio", timestamp=_wall_ns(meter.started_s + meter.ttfa_s))
        if meter.outcome == "error":
            span.set_status(Status(StatusCode.ERROR))
        span.end(_wall_ns(meter.started_s + meter.taken_s))
        with self._lock:
            pending = self._of(request_id)
            pending.span, pending.num_missing = span, num_parts
        self._tell(request_id)

    def passed(self, request_id: str, times: Sequence[StagePassage]) -> None:
        """A request, or a part of one, has passed all stages, or as many as it came to."""
        request_id, _, part = request_id.partition("/")
        with self._lock:
            self._of(request_id).passed.append((part, times))
        self._tell(request_id)

    def close(self) -> None:
        """Send what is still waiting to be sent."""
        self._provider.shutdown()

    def _of(self, request_id: str) -> _Pending:
        pending = self._pending.setdefault(request_id, _Pending())
        if len(self._pending) > _MOST_PENDING:
            self._pending.popitem(last=False)
        return pending

    def _tell(self, request_id: str) -> None:
        """Make the spans of what has passed, if that below which they belong is there."""
        with self._lock:
            pending = self._pending.get(request_id)
            if pending is None or pending.span is None or pending.num_missing is None:
                return
            passed, pending.passed = pending.passed, []
            pending.num_missing -= len(passed)
            if pending.num_missing <= 0:
                del self._pending[request_id]
        for part, times in passed:
            self._add_stages(pending.span, part, times)

    def _add_stages(self, span: "Span", part: str, times: Sequence[StagePassage]) -> None:
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(span)
        numbered = {"stentor.part": int(part)} if part else {}
        for one in times:
            stage = self._tracer.start_span(
                f"stage {one.stage}", context, attributes=numbered, start_time=_wall_ns(one.came_s)
            )
            if one.first_s is not None:
                stage.add_event("first result", timestamp=_wall_ns(one.first_s))
            stage.end(_wall_ns(one.last_s or one.came_s))


def make_tracer() -> Tracer:
    """A tracer that sends spans in batches, over OTLP and HTTP. Raises ConfigError without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigError("--tracing needs the extra 'otel': pip install 'stentor[otel]'") from None
    # The variables win: what is given here is the default only.
    resource = Resource.create({"service.name": "stentor", "service.version": stentor.__version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracer(provider)


def _attributes(request_id: str, meter: RequestMeter, facts: Mapping[str, Any]) -> dict[str, Any]:
    """In the names of OpenTelemetry's conventions for generative AI where it has one, else in ours."""
    told = {
        "gen_ai.operation.name": "speech",
        "gen_ai.usage.input_tokens": meter.prompt_tokens,
        "gen_ai.usage.output_tokens": meter.completion_tokens,
        "stentor.request_id": request_id,
        "stentor.outcome": meter.outcome,
        "stentor.finish_reason": meter.finish_reason or None,
        "stentor.streamed": meter.streamed,
        "stentor.audio_s": meter.audio_s,
        "stentor.ttfa_s": meter.ttfa_s,
        "stentor.rtf": meter.rtf,
        "stentor.underruns": meter.clock.underruns,
        **{f"stentor.{name}": value for name, value in facts.items()},
    }
    return {name: value for name, value in told.items() if value is not None}


def _wall_ns(monotonic_s: float) -> int:
    """A time of the monotonic clock as nanoseconds since 1970."""
    return time.time_ns() - round(1e9 * (time.monotonic() - monotonic_s))

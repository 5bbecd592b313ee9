"""Laws of tracing: a request is one span with its stages below it, whichever half is known first."""

import sys
import time
from collections.abc import Callable
from functools import partial

import pytest
from msgspec import structs

from stentor.errors import ConfigError
from stentor.server import app as app_module
from stentor.server.metrics import Metrics
from stentor.server.tracing import Tracer, make_tracer
from stentor.stages.base import StageTimes
from tests.server.conftest import Running
from tests.server.fakes import INFO, RATE, FakePipeline, say

trace = pytest.importorskip("opentelemetry.sdk.trace", reason="the OpenTelemetry SDK is not installed")
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from opentelemetry.trace import StatusCode  # noqa: E402

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def memory() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(memory: InMemorySpanExporter) -> Tracer:
    provider = trace.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    return Tracer(provider)


@pytest.fixture
def serve_traced(
    serve: Callable[..., Running], tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Running]:
    monkeypatch.setattr(app_module, "make_tracer", lambda: tracer)
    return partial(serve, tracing=True)


def stage_times() -> list[StageTimes]:
    now_s = time.monotonic()
    return [
        StageTimes("preprocess", now_s - 2.0, now_s - 1.9, now_s - 1.9),
        StageTimes("generate", now_s - 1.9, now_s - 1.5, now_s - 0.5),
        StageTimes("vocode", now_s - 1.5),
    ]


@pytest.mark.parametrize("stages_first", [True, False])
def test_the_stages_are_below_their_request(
    tracer: Tracer, memory: InMemorySpanExporter, stages_first: bool
) -> None:
    meter = Metrics(FakePipeline().stats).measure(RATE, streamed=True)
    meter.heard(RATE)
    meter.end("done", finish_reason="stop", prompt_tokens=3, completion_tokens=25)
    times = stage_times()
    if stages_first:
        tracer.passed("a", times)
    tracer.ended("a", meter, {"traceparent": PARENT}, key="alice")
    if not stages_first:
        tracer.passed("a", times)
    spans = {span.name: span for span in memory.get_finished_spans()}
    assert set(spans) == {"speech", "stage preprocess", "stage generate", "stage vocode"}
    request = spans["speech"]
    assert format(request.context.trace_id, "032x") == PARENT.split("-")[1]
    assert request.parent is not None
    assert format(request.parent.span_id, "016x") == PARENT.split("-")[2]
    for name, span in spans.items():
        assert name == "speech" or span.parent == request.context
    attributes = dict(request.attributes or {})
    assert attributes["stentor.key"] == "alice"
    assert attributes["stentor.audio_s"] == pytest.approx(1.0)
    assert attributes["gen_ai.usage.output_tokens"] == 25
    assert [event.name for event in request.events] == ["first audio"]
    generate = spans["stage generate"]
    assert generate.end_time - generate.start_time == pytest.approx(1.4e9, rel=0.05)
    assert spans["stage vocode"].events == ()


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_stages_of_all_parts_are_below_the_one_request(
    tracer: Tracer, memory: InMemorySpanExporter, first: int
) -> None:
    meter = Metrics(FakePipeline().stats).measure(RATE, streamed=True)
    meter.end("done")
    for part in range(1, first + 1):
        tracer.passed(f"a/{part}", stage_times())
    tracer.ended("a", meter, {}, 2)
    for part in range(first + 1, 3):
        tracer.passed(f"a/{part}", stage_times())
    speech, *stages = memory.get_finished_spans()
    assert speech.name == "speech"
    assert [span.attributes["stentor.part"] for span in stages if span.attributes] == [1] * 3 + [2] * 3
    assert all(span.parent == speech.context for span in stages)
    assert not tracer._pending


def test_a_text_in_parts_is_traced_with_the_stages_of_each(
    serve_traced: Callable[..., Running], tracer: Tracer, memory: InMemorySpanExporter
) -> None:
    server = serve_traced(say(0.2), info=structs.replace(INFO, max_prompt_chars=1))
    text = "The old dog saw the small boat. Then the dog went home again. A girl found the red box."
    assert server.http.post("/v1/audio/speech", json={"input": text}).status_code == 200
    server.pipeline.wait_until(lambda: len(memory.get_finished_spans()) == 1)
    assert len(server.pipeline.requests) == 3
    for request in server.pipeline.requests:
        for call in server.pipeline.on_passed:
            call(request.request_id, stage_times())
    speech, *stages = memory.get_finished_spans()
    assert len(stages) == 9
    assert all(span.parent == speech.context for span in stages)
    assert not tracer._pending


def test_an_error_is_an_error(tracer: Tracer, memory: InMemorySpanExporter) -> None:
    meter = Metrics(FakePipeline().stats).measure(RATE, streamed=False)
    meter.end("error")
    tracer.ended("a", meter, {})
    (span,) = memory.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.parent is None


def test_halves_that_never_meet_are_bounded(tracer: Tracer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stentor.server.tracing._MOST_PENDING", 10)
    for number in range(50):
        tracer.passed(str(number), stage_times())
    assert len(tracer._pending) == 10


def test_a_server_traces_what_it_speaks_and_no_words(
    serve_traced: Callable[..., Running], tracer: Tracer, memory: InMemorySpanExporter
) -> None:
    server = serve_traced(say(0.2))
    body = {"input": "my diary", "stream": True, "response_format": "pcm"}
    answer = server.http.post("/v1/audio/speech", json=body, headers={"traceparent": PARENT})
    assert answer.status_code == 200
    server.pipeline.wait_until(lambda: len(memory.get_finished_spans()) == 1)
    request_id = server.pipeline.requests[0].request_id
    for call in server.pipeline.on_passed:
        call(request_id, stage_times())
    assert len(memory.get_finished_spans()) == 4
    assert "diary" not in "".join(span.to_json() for span in memory.get_finished_spans())
    assert format(memory.get_finished_spans()[0].context.trace_id, "032x") == PARENT.split("-")[1]
    assert server.metric('stentor_stage_first_result_seconds_count{stage="generate"}') == 1


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"stentor\[otel\]"):
        make_tracer()

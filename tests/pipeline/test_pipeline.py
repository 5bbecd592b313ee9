import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest

from stentor.config import PipelineConfig
from stentor.errors import (
    AbortedError,
    ConfigError,
    InternalError,
    OverloadedError,
    RequestError,
    StentorError,
)
from stentor.pipeline.pipeline import Pipeline
from stentor.pipeline.stream import AudioStream
from stentor.request import Audio, FinishReason, Usage
from stentor.stages.base import StageSpec
from tests.pipeline import fakes
from tests.pipeline.stress import settled

ROOT = Path(__file__).parents[2]
KINDS = ("thread", "process")
Make = Callable[..., Pipeline]


@pytest.fixture
def make() -> Iterator[Make]:
    """Started pipelines, closed at the end of the test."""
    made: list[Pipeline] = []

    def build(kind: str, specs: Sequence[StageSpec] | None = None, **settings: object) -> Pipeline:
        config = PipelineConfig(workers=kind, **settings)  # type: ignore[arg-type]
        made.append(Pipeline(specs or fakes.chain(), config))
        made[-1].start()
        return made[-1]

    yield build
    for pipeline in made:
        pipeline.close()


@pytest.fixture
def no_process_is_left() -> Callable[[], bool]:
    """Has every process ended that this test began; other tests may have a server that still runs."""
    others = set(psutil.Process().children(recursive=True))

    def check() -> bool:
        return set(psutil.Process().children(recursive=True)) <= others

    return check


def end_of(stream: AudioStream) -> StentorError | None:
    """Read to the end; the error, if that is how it ends."""
    try:
        for _ in stream:
            pass
    except StentorError as error:
        return error
    return None


def check_audio(request_id: str, pieces: list[Audio], frames: int) -> None:
    waveform = np.concatenate([piece.waveform for piece in pieces])
    expected = np.concatenate([fakes.frame_audio(request_id, index) for index in range(frames)])
    assert waveform.dtype == np.float32
    assert np.array_equal(waveform, expected)
    assert all(piece.finish_reason is None for piece in pieces[:-1])
    assert pieces[-1].finish_reason is FinishReason.STOP
    assert pieces[-1].usage == Usage(7, frames)


def check_clean(pipeline: Pipeline) -> None:
    """No request, no stage's state and no message is left."""
    stats = settled(pipeline)
    assert stats["requests"] == {"open": 0, "ending": 0, "waiting": 0}
    assert set(stats["links"].values()) == {0}
    for gauges in stats["stages"].values():
        assert (gauges["held"], gauges["requests_known"]) == (0, 0)


def kill(pipeline: Pipeline, worker: str) -> int:
    pid = int(pipeline.stats()["workers"][worker]["pid"])
    os.kill(pid, signal.SIGKILL)
    return pid


def wait_until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("kind", KINDS)
def test_audio_arrives_complete_in_order_and_unmixed(make: Make, kind: str) -> None:
    pipeline = make(kind)
    assert pipeline.ready()
    streams = {
        f"r{i}": (
            pipeline.submit(fakes.request(f"r{i}", f"frames={i % 9 + 1}", samples=i % 3 * 9000)),
            i % 9 + 1,
        )
        for i in range(40)
    }
    for request_id, (stream, frames) in streams.items():
        check_audio(request_id, list(stream), frames)
        assert stream.ended
    check_clean(pipeline)


@pytest.mark.parametrize("kind", KINDS)
def test_asyncio_reads_from_the_same_pipeline(make: Make, kind: str) -> None:
    pipeline = make(kind)

    async def read(name: str) -> None:
        check_audio(name, [piece async for piece in pipeline.submit(fakes.request(name, "frames=6"))], 6)

    async def main() -> None:
        await asyncio.gather(*(read(f"r{i}") for i in range(30)))

    asyncio.run(main())
    check_clean(pipeline)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_request_fails_only_itself_in_whatever_stage(make: Make, kind: str) -> None:
    pipeline = make(kind)
    for stage in fakes.KINDS:
        bad = {3: f" bad={stage}"}
        streams = [
            pipeline.submit(fakes.request(f"{stage}{i}", f"frames=5{bad.get(i, '')}")) for i in range(8)
        ]
        ends = [end_of(stream) for stream in streams]
        assert [type(end) for end in ends] == [type(None)] * 3 + [RequestError] + [type(None)] * 4
        assert str(ends[3]) == f"{stage} refuses {stage}3"
    check_clean(pipeline)


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_step_fails_what_the_worker_holds_and_nobody_else(make: Make, kind: str) -> None:
    pipeline = make(kind, fakes.chain(step_s=0.01))
    held = [pipeline.submit(fakes.request(f"h{i}", "frames=500")) for i in range(3)]
    for stream in held:
        next(stream)
    bad = pipeline.submit(fakes.request("bad", "frames=500 burst=generate"))
    for stream in [*held, bad]:
        error = end_of(stream)
        assert isinstance(error, InternalError)
        assert "generate" in error.message
        assert "ZeroDivisionError" in error.message
    check_audio("next", list(pipeline.submit(fakes.request("next", "frames=4"))), 4)
    assert sum(worker["restarts"] for worker in pipeline.stats()["workers"].values()) == 0
    check_clean(pipeline)


@pytest.mark.parametrize("kind", KINDS)
def test_an_abort_ends_the_stream_at_once_and_frees_every_stage(make: Make, kind: str) -> None:
    pipeline = make(kind, fakes.chain(step_s=0.005))
    streams = [pipeline.submit(fakes.request(f"r{i}", "frames=100000")) for i in range(6)]
    for stream in streams:
        next(stream)
    for stream in streams[:5]:
        stream.abort()
        assert isinstance(end_of(stream), AbortedError)
        assert list(stream) == []
        assert stream.ended
    wait_until(lambda: pipeline.stats()["requests"] == {"open": 1, "ending": 0, "waiting": 0})
    # Gauges are told a few times a second: an early one may say that one is held, too.
    wait_until(lambda: pipeline.stats()["stages"]["generate"]["aborts"] == 5)
    wait_until(lambda: pipeline.stats()["stages"]["generate"]["held"] == 1)
    next(streams[5])
    streams[5].abort()
    check_clean(pipeline)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_house_refuses_and_a_finished_or_aborted_request_makes_room(make: Make, kind: str) -> None:
    pipeline = make(kind, max_requests=3)
    streams = [pipeline.submit(fakes.request(f"r{i}", "frames=3")) for i in range(3)]
    with pytest.raises(OverloadedError, match="3 places") as caught:
        pipeline.submit(fakes.request("more"))
    assert caught.value.retry_after_s > 0
    # Done, but unread: the place is still taken.
    wait_until(lambda: all(stream.ended for stream in streams))
    with pytest.raises(OverloadedError):
        pipeline.submit(fakes.request("more"))
    check_audio("r0", list(streams[0]), 3)
    streams[1].abort()
    for name in ("a", "b"):
        streams.append(pipeline.submit(fakes.request(name)))
    with pytest.raises(OverloadedError):
        pipeline.submit(fakes.request("more"))
    # What has its place already may go on.
    check_audio("part", list(pipeline.submit(fakes.request("part"), continues=True)), 3)
    del streams[2:]
    gc.collect()
    wait_until(lambda: pipeline.stats()["requests"]["open"] == 0)
    # In a closed loop at the limit a reader that has read to the end is never refused.
    for number in range(50):
        trio = [pipeline.submit(fakes.request(f"l{number}-{i}", "frames=1")) for i in range(3)]
        assert [end_of(stream) for stream in trio] == [None] * 3
    check_clean(pipeline)


def test_an_id_is_used_once_at_a_time(make: Make) -> None:
    pipeline = make("thread")
    stream = pipeline.submit(fakes.request("same", "frames=2"))
    with pytest.raises(RequestError, match="'same'"):
        pipeline.submit(fakes.request("same"))
    check_audio("same", list(stream), 2)
    check_clean(pipeline)
    for _ in range(200):
        with contextlib.suppress(RequestError):
            check_audio("same", list(pipeline.submit(fakes.request("same", "frames=2"))), 2)
    check_clean(pipeline)


@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_reader_does_not_slow_the_others(make: Make, kind: str) -> None:
    pipeline = make(kind, link_credits=2)
    slow = [pipeline.submit(fakes.request(f"slow{i}", "frames=400")) for i in range(4)]
    for number in range(20):
        check_audio(f"r{number}", list(pipeline.submit(fakes.request(f"r{number}", "frames=10"))), 10)
    wait_until(lambda: all(stream.ended for stream in slow))
    for number, stream in enumerate(slow):
        check_audio(f"slow{number}", list(stream), 400)
    check_clean(pipeline)


@pytest.mark.parametrize("kind", KINDS)
def test_links_hold_no_more_messages_than_credits(make: Make, kind: str) -> None:
    specs = fakes.chain(step_s=0.0, groups=("a", "b", "c", "d"))
    slow_vocode = StageSpec("vocode", fakes.build, {"name": "vocode", "step_s": 0.03}, group="d")
    pipeline = make(kind, [*specs[:3], slow_vocode], link_credits=3)
    streams = [pipeline.submit(fakes.request(f"r{i}", "frames=300")) for i in range(4)]
    seen: list[int] = []
    while 3 not in seen or len(seen) < 50:
        seen.append(max(pipeline.stats()["links"].values()))
        time.sleep(0.005)
    assert max(seen) == 3
    # Aborts pass through the same full links, in their turn.
    for stream in streams:
        stream.abort()
    check_clean(pipeline)


def test_a_killed_worker_fails_only_what_it_held(make: Make) -> None:
    pipeline = make("process", fakes.chain(step_s=0.01))
    downstream = [pipeline.submit(fakes.request(f"d{i}", "frames=120")) for i in range(4)]
    for stream in downstream:
        next(stream)
    # Preprocess and encode have handed all of them on, so their death concerns nobody.
    kill(pipeline, "front")
    upstream = [pipeline.submit(fakes.request(f"u{i}", "frames=3")) for i in range(4)]
    for number, stream in enumerate(downstream):
        pieces = list(stream)
        assert sum(len(piece.waveform) for piece in pieces) == 119 * fakes.SAMPLES_PER_FRAME
        assert pieces[-1].usage == Usage(7, 120), number
    for number, stream in enumerate(upstream):
        check_audio(f"u{number}", list(stream), 3)
    # The engine's and the vocoder's death concerns those that are being spoken, and waiting ones survive.
    for worker in ("main", "sound"):
        spoken = [pipeline.submit(fakes.request(f"{worker}{i}", "frames=10000")) for i in range(3)]
        for stream in spoken:
            next(stream)
        kill(pipeline, worker)
        waiting = [pipeline.submit(fakes.request(f"w{i}", "frames=3")) for i in range(3)]
        for stream in spoken:
            error = end_of(stream)
            assert isinstance(error, InternalError)
            assert "died" in error.message
        for number, stream in enumerate(waiting):
            check_audio(f"w{number}", list(stream), 3)
        wait_until(lambda: pipeline.stats()["requests"]["ending"] == 0)
    check_clean(pipeline)
    assert {name: worker["restarts"] for name, worker in pipeline.stats()["workers"].items()} == {
        "front": 1,
        "main": 1,
        "sound": 1,
    }


def test_requests_aborted_while_a_worker_is_dead_are_forgotten_everywhere(make: Make) -> None:
    pipeline = make("process", fakes.chain(step_s=0.002))
    for worker in ("main", "front", "sound", "main"):
        streams = [pipeline.submit(fakes.request(f"{worker}{i}", "frames=10000")) for i in range(8)]
        next(streams[0])
        for stream in streams[:4]:
            stream.abort()
        kill(pipeline, worker)
        for stream in streams[4:]:
            stream.abort()
        assert all(isinstance(end_of(stream), AbortedError) for stream in streams)
        check_clean(pipeline)


def test_all_workers_may_die_at_once(make: Make) -> None:
    pipeline = make("process", fakes.chain(step_s=0.005))
    streams = [pipeline.submit(fakes.request(f"r{i}", "frames=10000")) for i in range(8)]
    next(streams[0])
    for worker in ("front", "main", "sound"):
        kill(pipeline, worker)
    for stream in streams:
        assert isinstance(end_of(stream), InternalError)
    check_audio("next", list(pipeline.submit(fakes.request("next", "frames=4"))), 4)
    check_clean(pipeline)


def test_too_many_deaths_break_the_pipeline_for_good(
    make: Make, no_process_is_left: Callable[[], bool]
) -> None:
    pipeline = make("process", restart_limit=2)
    for _ in range(2):
        kill(pipeline, "main")
        assert not end_of(pipeline.submit(fakes.request("a", "frames=2")))
        check_clean(pipeline)
    streams = [pipeline.submit(fakes.request(f"r{i}", "frames=100000")) for i in range(3)]
    next(streams[0])
    kill(pipeline, "main")
    for stream in streams:
        error = end_of(stream)
        assert isinstance(error, InternalError)
        assert "broken down" in error.message
    assert not pipeline.ready()
    with pytest.raises(InternalError, match="does not serve"):
        pipeline.submit(fakes.request("late"))
    wait_until(no_process_is_left)


def test_a_worker_that_cannot_come_back_breaks_the_pipeline(make: Make, tmp_path: Path) -> None:
    marker = {"name": "encode", "marker": str(tmp_path / "first-life")}
    pipeline = make("process", [StageSpec("encode", fakes.die_after_first_life, marker)], restart_limit=3)
    stream = pipeline.submit(fakes.request("a"))
    end_of(stream)
    kill(pipeline, "main")
    waiting = pipeline.submit(fakes.request("b"))
    error = end_of(waiting)
    assert isinstance(error, InternalError)
    assert "the second life fails" in error.message


@pytest.mark.parametrize("kind", KINDS)
def test_start_raises_what_a_build_raised_and_leaves_nothing(
    kind: str, no_process_is_left: Callable[[], bool]
) -> None:
    threads = set(threading.enumerate())
    specs = [
        *fakes.chain()[:3],
        StageSpec("vocode", fakes.refuse_to_build, {"name": "vocode"}, group="sound"),
    ]
    pipeline = Pipeline(specs, PipelineConfig(workers=kind))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="vocode cannot be built") as caught:
        pipeline.start()
    assert caught.value.param == "model"
    assert not pipeline.ready()
    assert no_process_is_left()
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("kind", KINDS)
def test_a_build_that_hangs_is_an_error_in_time(kind: str) -> None:
    specs = [StageSpec("encode", fakes.build_slowly, {"name": "encode", "seconds": 1.5})]
    config = PipelineConfig(workers=kind, start_timeout_s=0.3)  # type: ignore[arg-type]
    began = time.monotonic()
    with pytest.raises(InternalError, match="STENTOR_PIPELINE_START_TIMEOUT_S"):
        Pipeline(specs, config).start()
    assert time.monotonic() - began < 10.0


@pytest.mark.parametrize("kind", KINDS)
def test_close_aborts_what_is_open_in_bounded_time_and_leaves_nothing(
    make: Make, kind: str, no_process_is_left: Callable[[], bool]
) -> None:
    before = set(Path("/dev/shm").iterdir())
    threads = set(threading.enumerate())
    pipeline = make(kind, fakes.chain(step_s=0.05))
    streams = [pipeline.submit(fakes.request(f"r{i}", "frames=100000")) for i in range(5)]
    errors: list[StentorError | None] = []
    reader = threading.Thread(target=lambda: errors.append(end_of(streams[0])))
    reader.start()
    next(streams[1])
    began = time.monotonic()
    pipeline.close()
    assert time.monotonic() - began < 8.0
    reader.join(1.0)
    errors += [end_of(stream) for stream in streams[1:]]
    assert [type(error) for error in errors] == [AbortedError] * 5
    pipeline.close()
    assert not pipeline.ready()
    with pytest.raises(InternalError, match="closed"):
        pipeline.submit(fakes.request("late"))
    assert no_process_is_left()
    assert set(threading.enumerate()) <= threads
    assert set(Path("/dev/shm").iterdir()) == before
    assert pipeline.stats()["requests"] == {"open": 0, "ending": 0, "waiting": 0}


def test_close_does_not_wait_for_a_step_that_never_ends(
    make: Make, no_process_is_left: Callable[[], bool]
) -> None:
    pipeline = make("process", [StageSpec("encode", fakes.build, {"name": "encode", "step_s": 60.0})])
    stream = pipeline.submit(fakes.request("a"))
    time.sleep(0.2)
    began = time.monotonic()
    pipeline.close()
    assert time.monotonic() - began < 10.0
    assert isinstance(end_of(stream), AbortedError)
    assert no_process_is_left()


# A process of its own, because threads of other tests' servers would be counted too.
IDLE = """
import time, psutil
from stentor.config import PipelineConfig
from stentor.pipeline.pipeline import Pipeline
from tests.pipeline import fakes
from tests.pipeline.stress import settled
pipeline = Pipeline(fakes.chain(), PipelineConfig(workers="process"))
pipeline.start()
list(pipeline.submit(fakes.request("a")))
settled(pipeline)
time.sleep(0.4)
everyone = [psutil.Process(), *psutil.Process().children()]
used = lambda: sum(sum(process.cpu_times()[:2]) for process in everyone)
before = used()
time.sleep(1.0)
print(len(everyone) - len(pipeline.stats()["workers"]), used() - before, flush=True)
pipeline.close()
"""


def test_an_idle_pipeline_costs_no_cpu() -> None:
    ended = subprocess.run([sys.executable, "-c", IDLE], cwd=ROOT, capture_output=True, text=True, check=True)
    parents, seconds = ended.stdout.split()
    assert int(parents) == 1
    assert float(seconds) <= 0.04


@pytest.mark.parametrize("kind", KINDS)
def test_stats_name_every_stage_link_and_worker(make: Make, kind: str) -> None:
    pipeline = make(kind)
    end_of(pipeline.submit(fakes.request("a")))
    stats = settled(pipeline)
    assert set(stats) == {"requests", "stages", "links", "workers"}
    assert set(stats["stages"]) == set(fakes.KINDS)
    for worker in stats["workers"].values():
        assert set(worker) == {"pid", "restarts", "ready"}


@pytest.mark.parametrize(
    ("specs", "settings", "message"),
    [
        ([], {}, "at least one stage"),
        ([StageSpec("a", fakes.build), StageSpec("a", fakes.build)], {}, "a name of its own"),
        ([StageSpec("a", fakes.build)], {"workers": "fiber"}, "workers .* one of thread, process"),
        ([StageSpec("a", fakes.build)], {"link_credits": 0}, "LINK_CREDITS"),
        ([StageSpec("a", fakes.build)], {"max_requests": 0}, "MAX_REQUESTS"),
    ],
)
def test_a_declaration_that_cannot_run_is_refused(
    specs: list[StageSpec], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Pipeline(specs, PipelineConfig(**settings))  # type: ignore[arg-type]


def test_what_cannot_be_sent_to_a_process_is_refused_at_the_start() -> None:
    pipeline = Pipeline([StageSpec("a", lambda: fakes.build("encode"))], PipelineConfig(workers="process"))
    with pytest.raises(ConfigError, match="top-level function"):
        pipeline.start()


def test_a_pipeline_that_is_not_started_serves_nobody() -> None:
    pipeline = Pipeline(fakes.chain(), PipelineConfig())
    assert not pipeline.ready()
    with pytest.raises(InternalError, match="start"):
        pipeline.submit(fakes.request("a"))
    assert pipeline.stats() == {
        "requests": {"open": 0, "ending": 0, "waiting": 0},
        "stages": {},
        "links": {},
        "workers": {},
    }
    pipeline.close()

"""Laws of several chains behind one door: they share the requests, and none is lost with another's chain."""

import time
from collections.abc import Callable, Iterator

import pytest

from stentor.config import PipelineConfig
from stentor.errors import InternalError, NotFoundError, RequestError
from stentor.pipeline.pipeline import Pipeline
from stentor.stages.base import StageSpec
from tests.pipeline import fakes
from tests.pipeline.stress import Load, run
from tests.pipeline.test_pipeline import check_audio, check_clean, end_of, kill, wait_until
from tests.pipeline.test_stress import check, make_request

KINDS = ("thread", "process")
ONE_PROCESS = ("main",) * 4
Make = Callable[..., Pipeline]


@pytest.fixture
def make() -> Iterator[Make]:
    """Started pipelines of two chains, closed at the end of the test."""
    made: list[Pipeline] = []

    def build(kind: str, step_s: float = 0.0, **settings: object) -> Pipeline:
        config = PipelineConfig(workers=kind, **settings)  # type: ignore[arg-type]
        specs = fakes.chain(step_s, ONE_PROCESS)
        made.append(Pipeline(specs, config, [specs]))
        made[-1].start()
        return made[-1]

    yield build
    for pipeline in made:
        pipeline.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_goes_to_the_chain_that_has_fewest(make: Make, kind: str) -> None:
    pipeline = make(kind, step_s=0.005)
    streams = [pipeline.submit(fakes.request(f"r{i}", "frames=100000")) for i in range(6)]
    for stream in streams:
        next(stream)
    held = [f"generate@{number}" for number in range(2)]
    wait_until(lambda: [pipeline.stats()["stages"][name]["held"] for name in held] == [3, 3])
    for stream in streams:
        stream.abort()
    check_clean(pipeline)
    for number in range(20):
        check_audio(f"n{number}", list(pipeline.submit(fakes.request(f"n{number}", "frames=4"))), 4)
    check_clean(pipeline)


def test_an_id_is_used_once_over_all_chains(make: Make) -> None:
    pipeline = make("thread", step_s=0.005)
    stream = pipeline.submit(fakes.request("same", "frames=100000"))
    with pytest.raises(RequestError, match="'same'"):
        pipeline.submit(fakes.request("same"))
    stream.abort()
    check_clean(pipeline)


def test_every_chain_has_names_of_its_own_and_a_lone_one_has_none(make: Make) -> None:
    pipeline = make("process")
    stats = pipeline.stats()
    assert set(stats["workers"]) == {"main@0", "main@1"}
    assert set(stats["stages"]) == {f"{stage}@{number}" for stage in fakes.KINDS for number in range(2)}
    pipeline.restart("main@1")
    wait_until(lambda: pipeline.stats()["workers"]["main@1"]["restarts"] == 1)
    assert pipeline.stats()["workers"]["main@0"]["restarts"] == 0
    for name in ("main", "main@2"):
        with pytest.raises(NotFoundError, match="no worker"):
            pipeline.restart(name)


@pytest.mark.parametrize(("kind", "kills"), [("thread", 0), ("process", 4)])
def test_every_request_ends_once_and_nothing_leaks(kind: str, kills: int) -> None:
    config = PipelineConfig(workers=kind)  # type: ignore[arg-type]
    specs = fakes.chain(0.001)
    load = Load(requests=1000, kills=kills)
    report = run(lambda: Pipeline(specs, config, [specs]), make_request, check, load)
    report.check()
    # Whoever is killed while he holds nothing takes nobody with him.
    assert kills or report.ends["lost"] == 0


def test_while_a_worker_comes_back_the_other_chain_serves(make: Make) -> None:
    pipeline = make("process")
    kill(pipeline, "main@0")
    wait_until(lambda: not pipeline.stats()["workers"]["main@0"]["ready"])
    assert pipeline.ready()
    check_audio("a", list(pipeline.submit(fakes.request("a", "frames=4"))), 4)
    wait_until(lambda: bool(pipeline.stats()["workers"]["main@0"]["ready"]))
    check_clean(pipeline)


def test_a_chain_that_is_given_up_fails_what_it_held_and_the_last_one_ends_all(make: Make) -> None:
    pipeline = make("process", step_s=0.005, restart_limit=0)
    streams = [pipeline.submit(fakes.request(f"r{i}", "frames=200")) for i in range(4)]
    for stream in streams:
        next(stream)
    # Read to the end or not, its place is free once its reader is done.
    unread = pipeline.submit(fakes.request("unread", "frames=100000"))
    next(unread)
    kill(pipeline, "main@0")
    ends = [end_of(stream) for stream in streams]
    assert [type(end) for end in ends] == [InternalError, type(None)] * 2
    assert "send it again" in str(ends[0])
    unread.abort()
    assert pipeline.ready()
    assert pipeline.alive()
    assert set(pipeline.stats()["workers"]) == {"main@1"}
    check_audio("r0", list(pipeline.submit(fakes.request("r0", "frames=4"))), 4)
    check_clean(pipeline)
    last = pipeline.submit(fakes.request("last", "frames=100000"))
    next(last)
    kill(pipeline, "main@1")
    assert "broken down" in str(end_of(last))
    assert not pipeline.alive()


def test_the_start_is_that_of_all_chains() -> None:
    broken = [StageSpec("vocode", fakes.refuse_to_build, {"name": "vocode"})]
    with pytest.raises(RequestError, match="vocode cannot be built"):
        Pipeline(fakes.chain(), PipelineConfig(workers="thread"), [broken]).start()
    slow = [StageSpec("encode", fakes.build_slowly, {"name": "encode", "seconds": 0.5})]
    pipeline = Pipeline(fakes.chain(), PipelineConfig(workers="thread"), [slow])
    began_s = time.monotonic()
    pipeline.start()
    assert time.monotonic() - began_s >= 0.5
    pipeline.close()

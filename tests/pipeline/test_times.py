"""Laws of what a request leaves behind, and of restarts on demand."""

import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from stentor.config import PipelineConfig
from stentor.errors import NotFoundError, RequestError
from stentor.pipeline.links import Item
from stentor.pipeline.pipeline import Pipeline
from stentor.stages.base import StageTimes
from tests.pipeline import fakes
from tests.pipeline.stress import settled

WAIT_S = 60.0


class Watched:
    """A started pipeline, and the times of every request that has passed."""

    def __init__(self, kind: str) -> None:
        self.passed: dict[str, list[Sequence[StageTimes]]] = {}
        self.changed = threading.Condition()
        self.pipeline = Pipeline(fakes.chain(), PipelineConfig(workers=kind))  # type: ignore[arg-type]
        self.pipeline.when_passed(self.note)
        self.pipeline.start()

    def note(self, request_id: str, times: Sequence[StageTimes]) -> None:
        with self.changed:
            self.passed.setdefault(request_id, []).append(times)
            self.changed.notify_all()

    def times_of(self, request_id: str) -> Sequence[StageTimes]:
        with self.changed:
            assert self.changed.wait_for(lambda: request_id in self.passed, WAIT_S)
            (only,) = self.passed[request_id]
            return only


@pytest.fixture(params=["thread", "process"])
def watched(request: pytest.FixtureRequest) -> Iterator[Watched]:
    made = Watched(request.param)
    yield made
    made.pipeline.close()


def test_every_stage_tells_when_it_worked_in_the_order_of_the_chain(watched: Watched) -> None:
    began_s = time.monotonic()
    pieces = list(watched.pipeline.submit(fakes.request("a", "frames=5")))
    times = watched.times_of("a")
    assert pieces[-1].finish_reason is not None
    assert [one.stage for one in times] == [spec.name for spec in fakes.chain()]
    at_s = began_s
    for one in times:
        assert one.first_s is not None
        assert one.last_s is not None
        assert at_s <= one.came_s <= one.first_s <= one.last_s <= time.monotonic()
        at_s = one.came_s


def test_a_request_that_ends_early_tells_how_far_it_came(watched: Watched) -> None:
    first = fakes.chain()[0].name
    stream = watched.pipeline.submit(fakes.request("b", f"frames=3 bad={first}"))
    with pytest.raises(RequestError):
        list(stream)
    times = watched.times_of("b")
    assert times[0].stage == first
    assert times[0].first_s is None


def test_a_worker_process_is_started_anew_on_demand() -> None:
    watched = Watched("process")
    pipeline = watched.pipeline
    try:
        with pytest.raises(NotFoundError, match="no worker 'nobody'"):
            pipeline.restart("nobody")
        before = pipeline.stats()["workers"]
        for worker in before:
            pipeline.restart(worker)
        deadline_s = time.monotonic() + WAIT_S
        while not (
            pipeline.ready() and all(w["restarts"] == 1 for w in pipeline.stats()["workers"].values())
        ):
            assert time.monotonic() < deadline_s, "it did not come back"
            time.sleep(0.01)
        assert all(pipeline.stats()["workers"][name]["pid"] != before[name]["pid"] for name in before)
        assert list(pipeline.submit(fakes.request("c")))
        assert settled(pipeline, WAIT_S)
    finally:
        pipeline.close()


def test_a_thread_is_not_restarted() -> None:
    watched = Watched("thread")
    try:
        name = next(iter(watched.pipeline.stats()["workers"]))
        with pytest.raises(RequestError, match="--workers process"):
            watched.pipeline.restart(name)
    finally:
        watched.pipeline.close()


def test_an_abort_that_was_sent_twice_forgets_no_later_request_of_that_id() -> None:
    pipeline = Pipeline(fakes.chain(), PipelineConfig())
    pipeline._end = None
    sent: list[Item] = []
    came: list[list[Item]] = []
    (chain,) = pipeline._chains
    launch: Any = SimpleNamespace(
        ready=True,
        head=SimpleNamespace(has_credit=lambda: True, send=sent.extend),
        tail=SimpleNamespace(receive=lambda: came.pop() if came else None),
        stats=dict,
    )
    chain._launch = launch

    def arrive(item: Item) -> None:
        came.append([item])
        pipeline._deliver(chain)

    pipeline.submit(fakes.request("a", "frames=1")).abort()
    pipeline._feed()
    pipeline._abort_again(chain)
    pipeline._feed()
    _, once, again = sent
    arrive(once)
    assert pipeline.stats()["requests"]["ending"] == 0
    pipeline.submit(fakes.request("a", "frames=1")).abort()
    pipeline._feed()
    arrive(again)
    # What its stages still hand on would go to the next request of its id.
    assert pipeline.stats()["requests"]["ending"] == 1
    arrive(sent[-1])
    assert pipeline.stats()["requests"]["ending"] == 0

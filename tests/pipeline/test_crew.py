import threading
import time

import pytest

from stentor.pipeline.crew import Crew, RestartLimit
from stentor.pipeline.links import Doorbell
from stentor.pipeline.links.local import LocalLink
from stentor.pipeline.worker import Worker
from stentor.stages.base import StageSpec
from tests.pipeline.test_worker import Script, into, told


class Fragile:
    """Builds scripts, of which the first ones break in every step."""

    def __init__(self, broken: int, builds_fail_after: int = 99) -> None:
        self.broken, self.builds_fail_after = broken, builds_fail_after
        self.made: list[Script] = []

    def build(self) -> Script:
        if len(self.made) >= self.builds_fail_after:
            raise OSError("no memory left")
        script = Script()
        script.fails = 10_000 if len(self.made) < self.broken else 0
        self.made.append(script)
        return script


class House:
    """A crew of one between two links."""

    def __init__(self, fragile: Fragile, limit: int) -> None:
        bell = Doorbell()
        self.inbox = LocalLink(99, Doorbell(), bell)
        self.outbox = LocalLink(99, bell, Doorbell())
        self.changed = threading.Event()
        worker = Worker(StageSpec("fragile", fragile.build), self.inbox, self.outbox, bell)
        self.crew = Crew([worker], limit, self.changed.set)
        self.crew.start()

    def ask(self, *names: str) -> list[str]:
        """Send requests one by one; what comes back."""
        answers = []
        for name in names:
            self.inbox.send([into(name)])
            deadline = time.monotonic() + 30.0
            while (message := self.outbox.receive()) is None and self.crew.failure is None:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            answers += told([list(message or [])])[0]
        return answers


def test_a_broken_stage_is_built_anew_and_serves() -> None:
    fragile = Fragile(broken=2)
    house = House(fragile, limit=5)
    names = [f"r{number}" for number in range(8)]
    assert house.ask(*names) == [f"!r{number}." for number in range(6)] + ["r6.", "r7."]
    assert [script.closed for script in fragile.made] == [1, 1, 0]
    assert house.crew.limits["fragile"].count == 2
    assert house.crew.failure is None
    assert house.crew.ready
    assert house.crew.stop(2.0)
    assert fragile.made[-1].closed == 1


def test_after_too_many_restarts_the_crew_has_failed() -> None:
    house = House(Fragile(broken=99), limit=1)
    house.ask(*"abcdefg")
    assert house.changed.is_set()
    assert house.crew.failure is not None
    assert "too often" in house.crew.failure.message
    assert not house.crew.ready
    assert house.crew.stop(1.0)


def test_a_build_that_fails_is_the_crews_failure() -> None:
    house = House(Fragile(0, builds_fail_after=0), limit=5)
    assert house.changed.wait(30.0)
    assert house.crew.failure is not None
    assert house.crew.failure.message == "OSError: no memory left"
    assert house.crew.stop(1.0)


@pytest.mark.parametrize("fails", [True, False], ids=["failed", "stopped"])
def test_no_further_stage_is_built_once_one_has_failed_or_the_crew_is_stopped(fails: bool) -> None:
    began, may_end, built = threading.Event(), threading.Event(), list[str]()

    def first() -> Script:
        began.set()
        assert may_end.wait(30.0)
        if fails:
            raise OSError("no memory left")
        return Script()

    def other() -> Script:
        built.append("other")
        return Script()

    bell = Doorbell()
    links = LocalLink(9, bell, bell), LocalLink(9, bell, bell)
    workers = [Worker(StageSpec(build.__name__, build), *links, bell) for build in (first, other, other)]
    crew = Crew(workers, 5, bell.ring)
    crew._threads[0].start()
    assert began.wait(30.0)
    for thread in crew._threads[1:]:
        thread.start()
    if not fails:
        assert not crew.stop(0.0)
    may_end.set()
    assert all(thread.join(30.0) is None and not thread.is_alive() for thread in crew._threads)
    assert built == []
    assert (crew.failure is not None) == fails


def test_a_crew_is_not_ready_while_a_stage_is_built_anew() -> None:
    fragile, rebuilding, may_end = Fragile(broken=1), threading.Event(), threading.Event()
    build = fragile.build

    def slowly() -> Script:
        if fragile.made:
            rebuilding.set()
            assert may_end.wait(30.0)
        return build()

    fragile.build = slowly  # type: ignore[method-assign]
    house = House(fragile, limit=5)
    house.ask("a", "b")
    house.inbox.send([into("c")])
    assert rebuilding.wait(30.0)
    assert not house.crew.ready
    may_end.set()
    deadline = time.monotonic() + 30.0
    while not house.crew.ready:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert house.crew.stop(2.0)


def test_a_rebuild_that_fails_is_tried_again_within_the_limit() -> None:
    house = House(Fragile(broken=1, builds_fail_after=1), limit=3)
    house.ask(*"abcd")
    assert house.crew.failure is not None
    assert "no memory left" in house.crew.failure.message
    assert house.crew.limits["fragile"].count == 3
    assert house.crew.stop(1.0)


def test_stop_does_not_wait_longer_than_told() -> None:
    fragile = Fragile(0)
    house = House(fragile, limit=0)
    house.ask("a")
    released = threading.Event()
    fragile.made[0].step = lambda: [into("b")] * released.wait(5.0)  # type: ignore[method-assign]
    house.inbox.send([into("b")])
    time.sleep(0.05)
    began = time.monotonic()
    assert not house.crew.stop(0.2)
    assert time.monotonic() - began < 1.0
    released.set()
    assert house.crew.stop(2.0)


def test_restarts_are_counted_within_a_minute() -> None:
    limit = RestartLimit(2)
    assert [limit.allows() for _ in range(3)] == [True, True, False]
    assert limit.count == 2
    limit._recent[0] -= 61.0
    assert [limit.allows() for _ in range(2)] == [True, False]
    assert not RestartLimit(0).allows()

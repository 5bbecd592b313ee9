import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from stentor.errors import Failure, RequestError
from stentor.pipeline.links import Doorbell, Item
from stentor.pipeline.links.local import LocalLink
from stentor.pipeline.worker import Worker
from stentor.request import Audio, Frames, SpeechRequest
from stentor.stages.base import Abort, Payload, Stage, StageSpec

FAILURE = Failure("InternalError", "upstream")


class Script:
    """A stage that does as it is told and notes what it was asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.held: list[str] = []
        self.results: list[list[Payload]] = []
        self.refuses: set[str] = set()
        self.fails = 0
        self.abort_fails = False
        self.closed = 0

    def add(self, payload: Payload) -> None:
        self.calls.append(f"add {payload.request_id}")
        if payload.request_id in self.refuses:
            raise RequestError("refused", param="text")
        self.held.append(payload.request_id)

    def step(self) -> list[Payload]:
        self.calls.append("step")
        if self.fails:
            self.fails -= 1
            raise ZeroDivisionError("step")
        held, self.held = self.held, []
        return self.results.pop(0) if self.results else [out(name, last=True) for name in held]

    def abort(self, request_id: str) -> None:
        self.calls.append(f"abort {request_id}")
        if self.abort_fails:
            raise ZeroDivisionError("abort")
        self.held = [name for name in self.held if name != request_id]

    def has_work(self) -> bool:
        return bool(self.held)

    def stats(self) -> dict[str, float]:
        return {"held": len(self.held)}

    def close(self) -> None:
        self.closed += 1


class Rig:
    """One worker between two local links, run on a thread once everything is prepared."""

    def __init__(self, stage: Script, credits: int = 100) -> None:
        self.stage = stage
        self.built = 0
        self.bell = Doorbell()
        self.inbox = LocalLink(1000, Doorbell(), self.bell)
        self.outbox = LocalLink(credits, self.bell, Doorbell())
        self.worker = Worker(StageSpec("script", self.build), self.inbox, self.outbox, self.bell)
        self.error: Exception | None = None
        self.marks = 0
        self.thread = threading.Thread(target=self.work)

    def build(self) -> Stage:
        self.built += 1
        return self.stage

    def work(self) -> None:
        try:
            self.worker.run()
        except Exception as error:
            self.error = error

    def run(self, *messages: list[Item]) -> list[list[Item]]:
        """Give it the messages; the messages that came out once it rests."""
        for message in messages:
            self.inbox.send(message)
        if self.thread.ident is None:
            self.worker.build()
            self.thread.start()
        return self.settle()

    def settle(self) -> list[list[Item]]:
        """What comes out until it rests (or its thread has ended): until two marks in a row have passed."""
        out: list[list[Item]] = []
        for _ in range(2):
            self.marks += 1
            mark = Abort(f"mark {self.marks}")
            self.inbox.send([mark])
            message: Sequence[Item] = []
            while mark not in message:
                alive = self.thread.is_alive()
                message = self.outbox.receive() or []
                kept = [item for item in message if not item.request_id.startswith("mark")]
                out += [kept] if kept else []
                if not (alive or message):
                    return out
                time.sleep(0.0005)
        return out

    def end(self) -> None:
        self.worker.stop()
        if self.thread.ident is not None:
            self.thread.join(5.0)
            assert not self.thread.is_alive()
        self.worker.close()


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(stage: Script | None = None, credits: int = 100) -> Rig:
        rigs.append(Rig(stage or Script(), credits))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.end()


def into(request_id: str, last: bool = True) -> Payload:
    return Payload(request_id, SpeechRequest(request_id, "hi"), last=last)


def out(request_id: str, last: bool = False) -> Payload:
    return Payload(request_id, Frames(np.zeros((1, 8), np.uint16)), last=last)


def told(messages: list[list[Item]]) -> list[list[str]]:
    def word(item: Item) -> str:
        if isinstance(item, Abort):
            return f"-{item.request_id}"
        return ("!" if item.failure else "") + item.request_id + "." * item.last

    return [[word(item) for item in message] for message in messages]


def test_what_one_step_yields_crosses_as_one_message(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    assert told(rig.run([into("a"), into("b")], [into("c")])) == [["a.", "b.", "c."]]
    assert rig.stage.calls == ["add a", "add b", "add c", "step"]


def test_an_abort_passes_in_its_turn_and_frees_the_stage_before_the_next_step(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig()
    assert told(rig.run([into("a")], [Abort("a"), into("b")], [Abort("x")])) == [["-a", "-x", "b."]]
    assert rig.stage.calls == ["add a", "abort a", "add b", "step"]


def test_a_finished_request_is_not_aborted_in_the_stage_but_forgotten(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.run([into("a")])
    assert told(rig.run([Abort("a")])) == [["-a"]]
    assert "abort a" not in rig.stage.calls
    time.sleep(0.3)
    assert rig.worker.gauges == {"held": 0, "requests_known": 0}


def test_a_refusal_fails_that_request_only(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.stage.refuses = {"b"}
    (message,) = rig.run([into("a"), into("b", last=False), into("c")])
    assert told([message]) == [["!b.", "a.", "c."]]
    failed = message[0]
    assert isinstance(failed, Payload)
    assert failed.failure == Failure("RequestError", "refused", "text", None)
    assert "abort b" in rig.stage.calls
    # Its further pieces are ignored until the Abort has passed; then the id is new.
    rig.stage.refuses = set()
    assert told(rig.run([into("b")])) == []
    assert told(rig.run([Abort("b"), into("b")])) == [["-b", "b."]]


def test_a_failed_step_fails_what_is_held_and_nothing_else(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.run([into("done")])
    rig.stage.fails = 1
    (message,) = rig.run([into("a"), into("b")])
    assert sorted(told([message])[0]) == ["!a.", "!b."]
    failed = message[0]
    assert isinstance(failed, Payload)
    assert failed.failure is not None
    assert failed.failure.kind == "InternalError"
    assert "script" in failed.failure.message
    assert "ZeroDivisionError" in failed.failure.message
    assert {"abort a", "abort b"} <= set(rig.stage.calls)
    assert "abort done" not in rig.stage.calls
    assert told(rig.run([into("c")])) == [["c."]]


def test_nothing_leaves_for_a_request_that_is_unknown_or_has_ended(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.stage.results = [[out("stranger"), out("a"), out("a", last=True), out("a")]]
    assert told(rig.run([into("a")])) == [["a", "a."]]
    rig.stage.results = [[out("a"), out("b", last=True)]]
    assert told(rig.run([into("b")])) == [["b."]]


def test_a_failure_from_upstream_ends_the_request_and_passes_on(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.stage.results = [[out("a")]]
    assert told(rig.run([into("a", last=False)])) == [["a"]]
    assert told(rig.run([Payload("a", last=True, failure=FAILURE)])) == [["!a."]]
    assert "abort a" in rig.stage.calls
    assert told(rig.run([Payload("new", last=True, failure=FAILURE)])) == [["!new."]]


def test_a_failure_after_the_last_piece_concerns_nobody(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    late = Payload("a", last=True, failure=FAILURE)
    assert told(rig.run([into("a"), late])) == [["a."]]
    assert told(rig.run([late])) == []


def test_a_request_that_failed_here_fails_once(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.stage.refuses = {"a"}
    assert told(rig.run([into("a", last=False), Payload("a", last=True, failure=FAILURE)])) == [["!a."]]


def test_a_worker_without_credit_waits_and_still_stops(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(credits=1)
    rig.worker.build()
    rig.thread.start()
    for name in "abc":
        rig.inbox.send([into(name)])
        time.sleep(0.03)
    assert rig.outbox.under_way == 1
    assert told(rig.settle()) == [["a."], ["b."], ["c."]]
    for name in "def":
        rig.inbox.send([into(name)])
        time.sleep(0.03)
    assert rig.outbox.under_way == 1


def test_an_idle_worker_costs_no_cpu(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.run([into("a")])
    time.sleep(0.4)
    began, calls = time.process_time(), len(rig.stage.calls)
    time.sleep(0.6)
    assert time.process_time() - began < 0.03
    assert len(rig.stage.calls) == calls


@pytest.mark.parametrize("how", ["step", "abort"])
def test_a_broken_stage_ends_the_run_and_recovers_with_a_new_one(
    make_rig: Callable[..., Rig], how: str
) -> None:
    rig = make_rig()
    rig.run([into("done")])
    if how == "step":
        rig.stage.fails = 3
        assert told(rig.run([into("a")])) == [["!a."]]
        assert told(rig.run([into("b")])) == [["!b."]]
        rig.run([into("c")])
    else:
        rig.stage.abort_fails = True
        rig.run([into("c"), into("a"), Abort("a"), Abort("done"), into("d")])
    rig.thread.join(5.0)
    assert isinstance(rig.error, ZeroDivisionError)
    old, rig.stage = rig.stage, Script()
    rig.worker.recover(rig.error)
    assert (old.closed, rig.built) == (1, 2)
    # Nothing holds the memory of the broken one while the new one is built.
    frames = [frame for frame, _ in traceback.walk_tb(rig.error.__traceback__)]
    assert not any(value is old for frame in frames for value in frame.f_locals.values())
    rig.thread = threading.Thread(target=rig.work)
    rig.thread.start()
    (message,) = rig.settle()
    # Held requests have failed; what had been received and not yet handled comes now.
    if how == "step":
        assert told([message]) == [["!c."]]
    else:
        assert told([message]) == [["-a", "!c.", "-done", "d."]]
    assert told(rig.run([into("z")])) == [["z."]]


def test_a_gauge_that_fails_stops_nobody(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.stage.stats = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    assert told(rig.run([into("a")])) == [["a."]]


def test_what_arrives_while_the_gauges_are_read_is_in_the_next_reading(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.run([into("a")])
    aborts = [Abort("a")]

    def stats() -> dict[str, float]:
        if aborts:
            rig.inbox.send([aborts.pop()])
        return {}

    rig.stage.stats = stats  # type: ignore[method-assign]
    deadline = time.monotonic() + 10.0
    while aborts or rig.worker.gauges["requests_known"]:
        assert time.monotonic() < deadline, "the gauges are out of date"
        time.sleep(0.005)


def test_audio_passes_a_stage_by(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    done = Payload("a", Audio(np.zeros(3, np.float32), 24_000), last=True)
    passed = [item for message in rig.run([done, into("b")]) for item in message]
    assert [item.request_id for item in passed] == ["a", "b"]
    assert passed[0] is done
    assert "add a" not in rig.stage.calls
    rig.run([Abort("a")])
    assert "abort a" not in rig.stage.calls

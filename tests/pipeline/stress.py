"""The stress test's driver: many readers, random aborts, bad requests and killed workers, for any pipeline.

    report = run(make_pipeline, make_request, check, Load(kills=3))
    report.check()

`make_pipeline()` gives a pipeline that is not started; `make_request(i, bad)` the request number i;
`check(request, pieces)` raises if the audio of a request that was done is not what it must be.
"""

import ctypes
import gc
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psutil

from stentor.errors import AbortedError, InternalError, OverloadedError, RequestError, StentorError
from stentor.pipeline.pipeline import Pipeline
from stentor.pipeline.stream import AudioStream
from stentor.request import Audio, SpeechRequest

MakeRequest = Callable[[int, bool], SpeechRequest]
Check = Callable[[SpeechRequest, list[Audio]], None]


@dataclass(frozen=True)
class Load:
    requests: int = 2000
    readers: int = 32
    aborted: float = 0.25
    bad: float = 0.05
    kills: int = 0
    at_once: int = 1  # Workers killed at the same moment.
    longest_delay_s: float = 0.05  # Until an abort by the clock.
    warm_up: float = 0.1  # Share of the requests after which memory must not grow.
    seed: int = 0


@dataclass
class Report:
    """What happened; `check` says whether the laws were kept."""

    load: Load
    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    kills: list[str] = field(default_factory=list)
    stats: dict = field(default_factory=dict)
    memory_mib: dict[str, tuple[float, float]] = field(default_factory=dict)  # Warmed up, and at the end.

    def check(self, growth_mib: float = 16.0) -> None:
        assert self.problems == []
        assert self.ends.total() == self.load.requests
        assert self.ends["bad"] > 0
        assert self.ends["aborted"] > self.load.requests * self.load.aborted / 3
        # What was in the house when a worker died, and no more.
        assert self.ends["lost"] <= len(self.kills) * self.load.readers
        assert len(self.kills) >= self.load.kills
        restarts = sum(worker["restarts"] for worker in self.stats["workers"].values())
        assert restarts == len(self.kills)
        assert self.stats["requests"] == {"open": 0, "ending": 0, "waiting": 0}
        assert set(self.stats["links"].values()) == {0}
        for gauges in self.stats["stages"].values():
            assert gauges["requests_known"] == 0
        for name, (before, after) in self.memory_mib.items():
            assert after - before < growth_mib, f"{name} grew from {before:.1f} to {after:.1f} MiB"


def run(make_pipeline: Callable[[], Pipeline], make_request: MakeRequest, check: Check, load: Load) -> Report:
    pipeline = make_pipeline()
    pipeline.start()
    try:
        return _Run(pipeline, make_request, check, load).run()
    finally:
        pipeline.close()


class _Run:
    def __init__(self, pipeline: Pipeline, make_request: MakeRequest, check: Check, load: Load) -> None:
        self.pipeline, self.make_request, self.check, self.load = pipeline, make_request, check, load
        self.report = Report(load)
        self.lock = threading.Lock()
        self.numbers = iter(range(load.requests))
        self.finished = 0
        self.killed: set[int] = set()

    def run(self) -> Report:
        began = time.monotonic()
        readers = [threading.Thread(target=self.read_all, args=(i,)) for i in range(self.load.readers)]
        for reader in readers:
            reader.start()
        self.wait_for(int(self.load.requests * self.load.warm_up))
        before = _memory_mib(self.pipeline)
        for kill in range(self.load.kills):
            self.wait_for(self.load.requests * (kill + 1) // (self.load.kills + 1))
            self.kill_a_worker(kill)
        for reader in readers:
            reader.join()
        self.report.seconds = time.monotonic() - began
        self.report.stats = settled(self.pipeline)
        after = _memory_mib(self.pipeline)
        self.report.memory_mib = {name: (before[name], after[name]) for name in after}
        return self.report

    def wait_for(self, finished: int) -> None:
        while self.finished < finished:
            time.sleep(0.002)

    def kill_a_worker(self, number: int) -> None:
        workers = self.living_workers()
        names = sorted(workers) * 2
        victims = names[number % len(workers) :][: min(self.load.at_once, len(workers))]
        for name in victims:
            pid = int(workers[name]["pid"])
            assert pid not in (0, os.getpid())
            os.kill(pid, signal.SIGKILL)
            self.report.kills.append(name)
            self.killed.add(pid)

    def living_workers(self, within_s: float = 30.0) -> dict[str, dict[str, float]]:
        """All workers, once each is up, and none is one that was killed and is not buried yet."""
        deadline = time.monotonic() + within_s
        while True:
            workers: dict[str, dict[str, float]] = self.pipeline.stats()["workers"]
            pids = {int(worker["pid"]) for worker in workers.values()}
            if self.pipeline.ready() and not pids & self.killed:
                return workers
            assert time.monotonic() < deadline, "a worker does not come up"
            time.sleep(0.002)

    def read_all(self, seed: int) -> None:
        dice = random.Random(self.load.seed * 1000 + seed)
        while True:
            with self.lock:
                number = next(self.numbers, None)
            if number is None:
                return
            try:
                end = self.read_one(number, dice)
            except BaseException as error:
                end = "broken"
                self.report.problems.append(f"request {number}: {type(error).__name__}: {error}")
            with self.lock:
                self.report.ends[end] += 1
                self.finished += 1

    def read_one(self, number: int, dice: random.Random) -> str:
        bad = dice.random() < self.load.bad
        request = self.make_request(number, bad)
        stream = self.submit(request)
        to_abort = dice.random() < self.load.aborted
        pieces: list[Audio] = []
        error: StentorError | None = None
        try:
            for piece in _aborting(stream, dice, self.load.longest_delay_s) if to_abort else stream:
                pieces.append(piece)
        except StentorError as caught:
            error = caught
        stream.abort()
        assert list(stream) == [], "audio or an error after the end"
        return self.judge(request, stream, bad, to_abort, pieces, error)

    def submit(self, request: SpeechRequest) -> AudioStream:
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.pipeline.submit(request)
            except OverloadedError:
                # Aborted requests on their way out are bounded too; while a worker restarts they wait for it.
                assert time.monotonic() < deadline, "overloaded for ever"
                time.sleep(0.005)

    def judge(
        self,
        request: SpeechRequest,
        stream: AudioStream,
        bad: bool,
        to_abort: bool,
        pieces: list[Audio],
        error: StentorError | None,
    ) -> str:
        match error:
            case None:
                assert stream.ended
                assert not bad, "a bad request was served"
                self.check(request, pieces)
                return "done"
            case AbortedError():
                assert to_abort, "an abort that nobody asked for"
                return "aborted"
            case RequestError():
                assert bad, f"refused without a reason: {error}"
                return "bad"
            case InternalError():
                assert self.load.kills, f"failed without a reason: {error}"
                assert "died" in error.message
                return "lost"
            case _:
                raise error


def _aborting(stream: AudioStream, dice: random.Random, longest_delay_s: float) -> Iterator[Audio]:
    """The stream's pieces, aborted at once, after some pieces, or by the clock from another thread."""
    kind = dice.randrange(3)
    if kind == 0:
        stream.abort()
    timer = threading.Timer(dice.uniform(0, longest_delay_s), stream.abort)
    if kind == 1:
        timer.start()
    abort_after = dice.randrange(1, 5)
    try:
        for count, piece in enumerate(stream, 1):
            yield piece
            if kind == 2 and count == abort_after:
                stream.abort()
    finally:
        timer.cancel()


def settled(pipeline: Pipeline, within_s: float = 30.0) -> dict:
    """The pipeline's stats once nothing moves any more (or when the time is over)."""
    deadline = time.monotonic() + within_s
    while True:
        stats = pipeline.stats()
        known = [gauges["requests_known"] + gauges.get("held", 0) for gauges in stats["stages"].values()]
        busy = [*stats["requests"].values(), *stats["links"].values(), *known]
        if (pipeline.ready() and known and not any(busy)) or time.monotonic() > deadline:
            return stats
        time.sleep(0.02)


def _memory_mib(pipeline: Pipeline) -> dict[str, float]:
    """Memory of its own (not shared) of each worker and of this process, which holds no free pages then."""
    gc.collect()
    # Each thread's arena keeps what was freed: what nobody uses any more is no leak.
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
    pids = {name: int(worker["pid"]) for name, worker in pipeline.stats()["workers"].items()}
    return {
        name: psutil.Process(pid).memory_full_info().uss / 2**20
        for name, pid in {**pids, "parent": os.getpid()}.items()
    }

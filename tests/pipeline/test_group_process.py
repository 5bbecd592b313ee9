import os
import pickle
import signal
import tempfile
import time
from collections.abc import Iterator

import psutil
import pytest

from stentor.config import PipelineConfig
from stentor.errors import Failure
from stentor.pipeline.child import Segment
from stentor.pipeline.group_process import GroupProcess
from stentor.pipeline.links.arena import create_arena
from stentor.pipeline.links.process import Exchange
from stentor.stages.base import StageSpec
from tests.pipeline import fakes


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with tempfile.TemporaryDirectory() as folder:
        made = Exchange(folder, create_arena(2), 4)
        yield made
        made.context.destroy(linger=0)
        made.arena.close()


def group(exchange: Exchange, *specs: StageSpec) -> GroupProcess:
    return GroupProcess("main", pickle.dumps((Segment(0, specs),)), exchange, PipelineConfig())


def watch_until(group: GroupProcess, ready: bool = False) -> Failure | None:
    deadline = time.monotonic() + 30.0
    while (death := group.watch()) is None and not (ready and group.ready):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return death


def test_it_reports_ready_and_gauges_and_ends_when_asked(exchange: Exchange) -> None:
    spec = StageSpec("preprocess", fakes.build, {"name": "preprocess"})
    process = group(exchange, spec)
    assert process.descriptor == -1
    process.start()
    assert watch_until(process, ready=True) is None
    pid = int(process.stats()["pid"])
    assert pid == psutil.Process(pid).pid
    while not process.gauges:
        process.watch()
    assert process.gauges["preprocess"]["pid"] == pid
    process.ask_to_stop()
    assert process.end(5.0) == 0
    assert not psutil.pid_exists(pid)
    assert process.stats() == {"pid": 0, "restarts": 0, "ready": False}


def test_a_killed_process_is_reaped_and_may_live_again(exchange: Exchange) -> None:
    process = group(exchange, StageSpec("preprocess", fakes.build, {"name": "preprocess"}))
    process.start()
    watch_until(process, ready=True)
    pid = int(process.stats()["pid"])
    os.kill(pid, signal.SIGKILL)
    death = watch_until(process)
    assert death is not None
    assert (death.kind, "-9" in death.message) == ("InternalError", True)
    assert not psutil.pid_exists(pid)
    process.start()
    assert watch_until(process, ready=True) is None
    process.ask_to_stop()
    process.end(5.0)


def test_a_failed_build_is_told_as_it_was_raised(exchange: Exchange) -> None:
    process = group(exchange, StageSpec("x", fakes.refuse_to_build, {"name": "x"}))
    process.start()
    assert watch_until(process) == Failure("RequestError", "x cannot be built", "model")


def test_a_build_that_takes_the_process_with_it_is_an_internal_error(exchange: Exchange) -> None:
    process = group(exchange, StageSpec("x", fakes.die_at_build, {"name": "x"}))
    process.start()
    death = watch_until(process)
    assert death is not None
    assert "code 9" in death.message


def test_a_build_that_cannot_be_imported_is_told(exchange: Exchange) -> None:
    process = group(exchange, StageSpec("preprocess", fakes.build, {"name": "preprocess"}))
    process._segments = process._segments.replace(b"tests.pipeline.fakes", b"tests.pipeline.faked")
    process.start()
    death = watch_until(process)
    assert death is not None
    assert "tests.pipeline.faked" in death.message


def test_a_process_that_does_not_stop_is_killed_in_time(exchange: Exchange) -> None:
    process = group(
        exchange, StageSpec("generate", fakes.build_slowly, {"name": "generate", "seconds": 30.0})
    )
    process.start()
    time.sleep(0.6)
    began = time.monotonic()
    process.ask_to_stop()
    process.end(0.3)
    assert time.monotonic() - began < 2.0

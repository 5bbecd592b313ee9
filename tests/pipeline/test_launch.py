import os
import tempfile
import threading
import time
from pathlib import Path

import pytest

from stentor.config import PipelineConfig
from stentor.errors import ConfigError
from stentor.pipeline.launch import Launch, ProcessLaunch, ThreadLaunch
from stentor.pipeline.links import Doorbell, Item
from stentor.pipeline.links.arena import MAX_LINKS
from stentor.stages.base import Abort, Payload, StageSpec
from tests.pipeline import fakes
from tests.pipeline.test_worker import Script

BUILDING = threading.Event()


def make(kind: str, groups: tuple[str, ...] = ("front", "front", "main", "sound")) -> Launch:
    config = PipelineConfig(link_credits=4)
    if kind == "thread":
        return ThreadLaunch(fakes.chain(groups=groups), config, Doorbell())
    return ProcessLaunch(fakes.chain(groups=groups), config)


def start(launch: Launch) -> None:
    launch.start()
    wait_for(launch, lambda: launch.ready)


def wait_for(launch: Launch, condition: object) -> None:
    deadline = time.monotonic() + 40.0
    while not condition():  # type: ignore[operator]
        launch.supervise()
        launch.head.service()
        assert launch.failure is None
        assert time.monotonic() < deadline
        time.sleep(0.002)


def run_one(launch: Launch, name: str) -> list[Item]:
    launch.head.send([Payload(name, fakes.request(name, "frames=4"))])
    launch.head.send([Abort(name)]) if name == "aborted" else None
    items: list[Item] = []

    def ended() -> bool:
        items.extend(launch.tail.receive() or [])
        return bool(items) and (isinstance(items[-1], Abort) or items[-1].last)

    wait_for(launch, ended)
    return items


@pytest.mark.parametrize("groups", [("a", "a", "a", "a"), ("a", "b", "c", "d"), ("a", "b", "a", "b")])
@pytest.mark.parametrize("kind", ["thread", "process"])
def test_the_same_chain_runs_in_every_placement(kind: str, groups: tuple[str, ...]) -> None:
    launch = make(kind, groups)
    try:
        start(launch)
        items = run_one(launch, "one")
        assert isinstance(items[-1], Payload)
        assert items[-1].failure is None
        stats = launch.stats()
        pids = {name: worker["pid"] for name, worker in stats["workers"].items()}
        if kind == "process":
            assert set(pids) == set(groups)
            assert os.getpid() not in pids.values()
            assert len(set(pids.values())) == len(set(groups))
        else:
            assert set(pids.values()) == {os.getpid()}
        assert list(stats["links"])[-1] == "out"
        assert set(stats["stages"]) == {"preprocess", "encode", "generate", "vocode"}
    finally:
        launch.stop(4.0)


def test_processes_start_at_the_same_time(tmp_path: Path) -> None:
    specs = [
        StageSpec(name, fakes.build_with_the_others, {"name": name, "folder": str(tmp_path)}, group=name)
        for name in fakes.KINDS
    ]
    launch = ProcessLaunch(specs, PipelineConfig())
    try:
        start(launch)
    finally:
        launch.stop(4.0)


def test_nothing_is_left_after_the_stop() -> None:
    shared = set(os.listdir("/dev/shm"))
    descriptors = len(os.listdir("/proc/self/fd"))
    launch = make("process")
    assert isinstance(launch, ProcessLaunch)
    start(launch)
    run_one(launch, "one")
    folder = Path(launch._exchange.folder)
    assert len(list(folder.iterdir())) == 4
    launch.stop(4.0)
    assert not folder.exists()
    assert set(os.listdir("/dev/shm")) == shared
    # The arena's mapping and the doorbells go with the launch.
    del launch
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2


def test_what_cannot_be_sent_is_refused_with_advice_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = set(Path(tempfile.gettempdir()).glob("stentor-*"))
    with pytest.raises(ConfigError, match="top-level function"):
        ProcessLaunch([StageSpec("x", lambda: fakes.OneToOne("x"))], PipelineConfig())
    with pytest.raises(ConfigError, match="picklable"):
        ProcessLaunch([StageSpec("x", fakes.build, {"name": lambda: "x"})], PipelineConfig())
    monkeypatch.setattr(fakes.build, "__module__", "__main__")
    with pytest.raises(ConfigError, match="main program"):
        ProcessLaunch(fakes.chain(), PipelineConfig())
    assert set(Path(tempfile.gettempdir()).glob("stentor-*")) == before


def test_a_long_temporary_folder_is_not_too_long_for_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    launch = make("process")
    try:
        start(launch)
    finally:
        launch.stop(4.0)


def test_more_links_than_counters_are_refused() -> None:
    specs = [StageSpec(str(i), fakes.build, {"name": "encode"}, group=str(i % 2)) for i in range(MAX_LINKS)]
    with pytest.raises(ConfigError, match="group"):
        ProcessLaunch(specs, PipelineConfig())


def slow_to_build(name: str) -> Script:
    BUILDING.set()
    time.sleep(0.5)
    return Script()


def test_no_thread_is_left_inside_a_build_or_a_step_for_the_interpreters_end() -> None:
    BUILDING.clear()
    spec = StageSpec("slow", slow_to_build, {"name": "slow"})
    launch = ThreadLaunch([spec], PipelineConfig(), Doorbell())
    launch.start()
    assert BUILDING.wait(30)
    launch.stop(0.01)
    assert "stentor-slow" not in {thread.name for thread in threading.enumerate()}

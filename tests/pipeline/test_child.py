import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stentor.config import PipelineConfig
from stentor.pipeline.pipeline import Pipeline
from stentor.stages.base import StageSpec
from tests.pipeline import fakes

ROOT = Path(__file__).parents[2]

PARENT = """
import os, sys, time
from stentor.config import PipelineConfig
from stentor.pipeline.pipeline import Pipeline
from tests.pipeline import fakes
pipeline = Pipeline(fakes.chain(step_s={step_s}), PipelineConfig(workers="process"))
pipeline.start()
streams = [pipeline.submit(fakes.request(f"r{{i}}", "frames=100000")) for i in range(4)]
next(streams[0])
print(*(int(w["pid"]) for w in pipeline.stats()["workers"].values()), flush=True)
time.sleep(60)
"""


def wait_gone(pids: list[int], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline, "an orphan lives on"
        time.sleep(0.02)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A socket's path may have some 100 bytes, of which pytest's own folders can take most."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.parametrize("step_s", [0.0, 0.3])
def test_children_do_not_outlive_a_killed_parent_and_leave_no_file(short_folder: Path, step_s: float) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(step_s=step_s)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(short_folder)},
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 3
    assert len(list(short_folder.iterdir())) == 1
    parent.kill()
    parent.wait()
    wait_gone(pids)
    assert list(short_folder.iterdir()) == []


def test_children_leave_ctrl_c_to_the_parent() -> None:
    pipeline = Pipeline(fakes.chain(), PipelineConfig(workers="process"))
    pipeline.start()
    try:
        before = pipeline.stats()["workers"]
        for worker in before.values():
            os.kill(int(worker["pid"]), signal.SIGINT)
        assert len(list(pipeline.submit(fakes.request("a", "frames=2")))) > 0
        assert pipeline.stats()["workers"] == before
    finally:
        pipeline.close()


def test_a_terminated_child_is_started_again() -> None:
    pipeline = Pipeline(fakes.chain(), PipelineConfig(workers="process"))
    pipeline.start()
    try:
        pid = int(pipeline.stats()["workers"]["main"]["pid"])
        os.kill(pid, signal.SIGTERM)
        wait_gone([pid])
        assert len(list(pipeline.submit(fakes.request("a", "frames=2")))) > 0
        assert pipeline.stats()["workers"]["main"]["restarts"] == 1
    finally:
        pipeline.close()


def environment_of(name: str) -> fakes.OneToOne:
    stage = fakes.OneToOne(name)
    seen = {key: os.environ.get(key, "") for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")}
    numbers = {"omp": seen["OMP_NUM_THREADS"], "mkl": seen["MKL_NUM_THREADS"]}
    passive = seen["OMP_WAIT_POLICY"] == "PASSIVE"
    heavy = "torch" in sys.modules or "transformers" in sys.modules
    gauges = {name: float(number) for name, number in numbers.items()} | {"passive": passive, "heavy": heavy}
    stage.stats = lambda: gauges  # type: ignore[method-assign]
    return stage


def test_thread_counts_are_set_before_anything_heavy_is_imported() -> None:
    config = PipelineConfig(workers="process", threads_per_worker=3)
    pipeline = Pipeline([StageSpec("one", environment_of, {"name": "one"})], config)
    before = dict(os.environ)
    pipeline.start()
    try:
        deadline = time.monotonic() + 30.0
        while not (gauges := pipeline.stats()["stages"].get("one")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert gauges == {"omp": 3, "mkl": 3, "passive": 1, "heavy": 0, "requests_known": 0}
    finally:
        pipeline.close()
    assert dict(os.environ) == before


def test_what_a_library_prints_stays_out_of_the_parents_stdout() -> None:
    code = (
        "from tests.pipeline import test_child as t; from stentor.pipeline.pipeline import Pipeline;"
        "from stentor.stages.base import StageSpec; from stentor.config import PipelineConfig;"
        "p = Pipeline([StageSpec('one', t.chatty)], PipelineConfig(workers='process')); p.start(); p.close();"
        "print('data')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "data\n"
    assert "a library says hello" in result.stderr
    assert "resource_tracker" not in result.stderr


def chatty() -> fakes.OneToOne:
    print("a library says hello", flush=True)
    return fakes.OneToOne("one")


def test_the_private_folder_is_private() -> None:
    pipeline = Pipeline(fakes.chain(), PipelineConfig(workers="process"))
    before = set(Path(tempfile.gettempdir()).glob("stentor-*"))
    pipeline.start()
    try:
        (folder,) = set(Path(tempfile.gettempdir()).glob("stentor-*")) - before
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        pipeline.close()
    assert not folder.exists()

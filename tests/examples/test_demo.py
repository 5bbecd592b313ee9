"""Laws of `make demo`: three sound recordings and status 0, or the reason and status 1."""

import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from examples.demo import DemoError, length_s
from stentor.audio.formats import encode_file
from tests.checkpoints import make_checkpoint

ROOT = Path(__file__).parents[2]


def demo(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "examples/demo.py", *arguments]
    # Threads are there sooner than processes that load torch each.
    environment = os.environ | {"STENTOR_PIPELINE_WORKERS": "thread"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)


def test_three_recordings_and_a_table_come_out(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", generation={"max_new_tokens": 40})
    done = demo("--output", str(tmp_path / "demo"), "--model", str(checkpoint))
    assert done.returncode == 0, done.stderr
    for name in ("plain.wav", "cloned.wav", "streamed.wav"):
        with wave.open(str(tmp_path / "demo" / name)) as file:
            assert file.getnframes() > 4800
        assert name in done.stdout
    assert "TTFA" in done.stdout


def test_a_failure_says_why_and_ends_with_status_1(tmp_path: Path) -> None:
    done = demo("--output", str(tmp_path / "demo"), "--model", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_silent_recording_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "silent.wav").write_bytes(encode_file(np.zeros(24_000, np.float32), "wav", 24_000))
    with pytest.raises(DemoError, match="silent"):
        length_s(tmp_path / "silent.wav")

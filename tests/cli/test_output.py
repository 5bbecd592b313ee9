"""Laws of results: refused before the work where they cannot be written."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from stentor.cli.output import check_output, write_output
from stentor.errors import ConfigError


def test_a_path_that_cannot_become_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder"):
        check_output(tmp_path)
    with pytest.raises(ConfigError, match="no folder"):
        check_output(tmp_path / "nowhere" / "a.wav")
    check_output(tmp_path / "a.wav")
    check_output("-")


def test_a_failing_write_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        write_output(tmp_path / "nowhere" / "a.wav", b"1")


def test_stdout_gets_the_bytes_alone(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write_output("-", b"\x00\xff")
    assert capfdbinary.readouterr().out == b"\x00\xff"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_stdout_that_takes_no_more_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=full))
        with pytest.raises(ConfigError, match="cannot write to '-'"):
            write_output("-", b"1")


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of Linux stands for a full disk")
def test_a_file_that_cannot_be_written_whole_is_not_left_in_half(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from stentor.cli.output import write_output; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000)); write_output(sys.argv[1], bytes(20_000))"
    )
    path = tmp_path / "a.wav"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert "ConfigError: cannot write to" in done.stderr
    assert not path.exists()

"""Laws of results: refused before the work where they cannot be written."""

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

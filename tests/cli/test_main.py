"""Laws of the command line: one clear line on stderr and status 1, never a traceback; quick to start."""

import subprocess
import sys
import time

import pytest
import typer
from typer.testing import CliRunner

import stentor
from stentor.cli import main
from stentor.errors import RequestError

runner = CliRunner()


def stentor_command(*arguments: str, dev_mode: bool = False) -> "subprocess.CompletedProcess[str]":
    python = [sys.executable, *(["-X", "dev"] if dev_mode else [])]
    return subprocess.run([*python, "-m", "stentor", *arguments], capture_output=True, text=True, timeout=60)


def test_the_help_names_every_command_and_comes_at_once() -> None:
    started_s = time.perf_counter()
    done = stentor_command("--help")
    took_s = time.perf_counter() - started_s
    assert done.returncode == 0
    for command in ("serve", "say", "codes", "doctor", "bench"):
        assert command in done.stdout
    assert (
        took_s < 5
    )  # half a second on an idle machine; a framework at import would take more than this on a busy one


def test_every_command_has_help() -> None:
    for command in (
        ["serve"],
        ["say"],
        ["codes", "encode"],
        ["codes", "decode"],
        ["doctor"],
        ["bench", "engine"],
    ):
        done = runner.invoke(main.app, [*command, "--help"])
        assert done.exit_code == 0, done.output


def test_the_version_is_the_packages() -> None:
    assert runner.invoke(main.app, ["--version"]).output == f"stentor {stentor.__version__}\n"


def test_an_error_is_one_line_and_status_1() -> None:
    done = stentor_command("say", "Hello.", "-o", "hello.doc")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("stentor: ")
    assert ".wav" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_in_development_mode_the_error_is_raised() -> None:
    done = stentor_command("say", "Hello.", "-o", "hello.doc", dev_mode=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_defect_of_ours_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise KeyError("no such thing")

    monkeypatch.setattr(main, "app", broken)
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert caught.value.code == 1
    assert "internal error: KeyError" in capsys.readouterr().err


def test_a_wrong_variable_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STENTOR_SERVER_PROT", "1")
    done = stentor_command("doctor")
    assert done.returncode == 1
    assert "STENTOR_SERVER_PROT" in done.stderr


def test_errors_of_ours_reach_the_caller_of_the_app_unwrapped() -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise RequestError("mend it")

    assert isinstance(runner.invoke(app).exception, RequestError)

"""Laws of the command line: one clear line on stderr and status 1, never a traceback; quick to start."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.main import get_command
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


def commands(group: typer.core.TyperGroup, *names: str) -> Iterator[tuple[list[str], Any]]:
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, *names, name)
        else:
            yield [*names, name], command


def letters(text: str) -> str:
    return "".join(re.findall(r"\w", text))


COMMANDS = list(commands(get_command(main.app)))


@pytest.mark.parametrize(("names", "command"), COMMANDS, ids=["-".join(names) for names, _ in COMMANDS])
def test_the_help_of_a_command_shows_all_that_is_said(names: list[str], command: Any) -> None:
    """What stands in brackets would be taken for the terminal's markup."""
    shown = runner.invoke(main.app, [*names, "--help"], env={"COLUMNS": "2000"})
    assert shown.exit_code == 0, shown.output
    told = [command.help, *(option.help for option in command.params if not getattr(option, "hidden", False))]
    for text in filter(None, told):
        assert letters(text.split("\n\n")[0]) in letters(shown.output), text


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

"""Dispatches to the commands; whatever goes wrong ends as one line on stderr and exit status 1."""

import sys
from typing import Annotated

import typer

from stentor import __version__
from stentor.cli import batch, bench, codes, doctor, say, serve, ui, voices, warmup, worker
from stentor.errors import StentorError

app = typer.Typer(
    name="stentor",
    help="Text in, streamed speech out: a server for speech language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("worker")(worker.worker)
app.command("ui")(ui.ui)
app.command("say")(say.say)
app.command("batch")(batch.batch)
app.add_typer(codes.app, name="codes")
app.add_typer(voices.app, name="voices")
app.command("doctor")(doctor.doctor)
app.command("warmup")(warmup.warmup)
app.add_typer(bench.app, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"stentor {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Text in, streamed speech out: a server for speech language models."""


def run() -> None:
    """The `stentor` command; in Python's development mode (`python -X dev -m stentor`) errors are raised."""
    try:
        app()
    except StentorError as error:
        _fail(error, error.message)
    except Exception as error:
        _fail(
            error,
            f"internal error: {type(error).__name__}: {error} (`python -X dev -m stentor …` shows where)",
        )


def _fail(error: Exception, message: str) -> None:
    if sys.flags.dev_mode:
        raise error
    print(f"stentor: {message}", file=sys.stderr)
    sys.exit(1)

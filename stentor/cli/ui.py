"""`stentor ui`: the page in Gradio for a server that runs here or elsewhere; also beside `stentor serve`."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, NoReturn

import typer

from stentor.cli.options import with_settings
from stentor.config import Config, UiConfig
from stentor.errors import ConfigError

_END_TIMEOUT_S = 5.0


@with_settings("ui")
def ui(
    config: Config,
    until_stdin_ends: Annotated[bool, typer.Option(hidden=True, help="End with whoever started it.")] = False,
) -> None:
    """Serve a page to speak, clone and keep voices in a browser; needs the extra `ui`."""
    check_installed()
    from stentor.ui.launch import Running

    signal.signal(signal.SIGTERM, interrupt)
    try:
        with Running(config.ui) as page:
            print(f"Stentor's page is on {page.url}", flush=True)
            if until_stdin_ends:
                threading.Thread(target=_end_with_stdin, daemon=True).start()
            page.wait()
    except KeyboardInterrupt:
        pass


def check_installed() -> None:
    """Raise ConfigError if Gradio is not there."""
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("the page in Gradio needs an extra: pip install 'stentor[ui]'")


@contextmanager
def beside(url: str, config: UiConfig) -> Iterator[None]:
    """The page as a process of its own, asking the server at `url`; it ends with the context, or with us."""
    command = [sys.executable, "-m", "stentor", "ui", "--until-stdin-ends"]
    settings = {"HOST": config.host, "PORT": str(config.port), "SERVER_URL": url, "API_KEY": config.api_key}
    environment = {**os.environ, **{f"STENTOR_UI_{name}": value for name, value in settings.items()}}
    # Ctrl-C on the terminal is for the server, which ends the page when its requests are done.
    # Its address goes to stderr: the first line of stdout is the server's own.
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=2, env=environment, start_new_session=True
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _end_with_stdin() -> None:
    # Not through `sys.stdin`, whose lock an ending interpreter would wait for.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    """What Ctrl-C does, for another signal."""
    raise KeyboardInterrupt

"""Laws of `stentor ui` and `stentor serve --ui`: one command for both, and none outlives the other."""

import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from stentor.cli import ui
from stentor.cli.main import app
from stentor.errors import ConfigError

HAS_GRADIO = ui.importlib.util.find_spec("gradio") is not None
needs_gradio = pytest.mark.skipif(not HAS_GRADIO, reason="the page is an extra: pip install 'stentor[ui]'")


@pytest.mark.parametrize("command", [["ui"], ["serve", "--ui"]])
def test_without_gradio_the_extra_is_named(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui.importlib.util, "find_spec", lambda _: None)
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, ConfigError)
    assert "stentor[ui]" in done.exception.message


@needs_gradio
@pytest.mark.timeout(240)
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_one_command_starts_both_and_ends_both(signal_number: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "stentor", "serve", "--port", "0", "--ui", "--ui-port", str(port)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, "NO_PROXY": "*"}, **pipes) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        assert "Stentor serves" in server.stdout.readline()
        while "page is on" not in (line := server.stderr.readline()):
            assert line, "the page did not start"
        assert str(port) in line
        pages = psutil.Process(server.pid).children(recursive=True)
        server.send_signal(signal_number)
        server.wait(60)
        deadline_s = time.monotonic() + 60
        while any(page.is_running() and page.status() != psutil.STATUS_ZOMBIE for page in pages):
            assert time.monotonic() < deadline_s, "something outlived the server"
            time.sleep(0.1)
    if signal_number == signal.SIGTERM:
        assert server.returncode == 0

"""Laws of the page's process; in one of its own, for Gradio does not close what it opens."""

import os
import re
import socket
import subprocess
import sys

import httpx2
import pytest

pytest.importorskip("gradio", reason="the page is an extra: pip install 'stentor[ui]'")


def command(port: int) -> list[str]:
    return [sys.executable, "-m", "stentor", "ui", "--ui-port", str(port)]


@pytest.mark.timeout(240)
def test_the_page_is_served_loads_nothing_from_elsewhere_and_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = {**os.environ, "NO_PROXY": "*"}
    with subprocess.Popen(command(port), env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"Stentor's page is on http://127.0.0.1:{port}/\n"
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
            page = http.get("/")
            assert http.get("/sound/nothing").status_code == 404
        process.terminate()
        assert process.wait(60) == 0
    assert page.status_code == 200
    assert "fonts.googleapis" not in page.text
    loaded = re.findall(r"""<script[^>]*src=["'](https?://[^"']+)""", page.text)
    assert loaded == []


@pytest.mark.timeout(240)
def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(command(port), capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "--ui-port" in done.stderr
    assert "Traceback" not in done.stderr

"""Laws of a server's end, with real processes and real signals: what runs is finished, or its cut is told."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from stentor.server.lifetime import notify

ROOT = Path(__file__).parents[2]
WAIT_S = 30.0


class Process:
    """A server process; `done` is the file that lets its requests end."""

    def __init__(self, folder: Path, limit_s: float, delay_s: float) -> None:
        self.done = folder / "done"
        command = [sys.executable, "-m", "tests.server.drain_server", str(self.done)]
        self.process = subprocess.Popen(
            [*command, str(limit_s), str(delay_s)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.http = httpx2.Client(
            base_url=self.process.stdout.readline().strip(), timeout=WAIT_S, trust_env=False
        )

    def close(self) -> None:
        self.http.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def status_of(self, path: str) -> int:
        return self.http.get(path).status_code

    def wait_until(self, happened: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not happened():
            assert time.monotonic() < deadline_s, "it did not happen in time"
            time.sleep(0.01)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> int:
        return self.process.wait(WAIT_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    with ExitStack() as opened:

        def start(limit_s: float = 60.0, delay_s: float = 0.0) -> Process:
            process = Process(tmp_path, limit_s, delay_s)
            opened.callback(process.close)
            return process

        yield start


BODY = {"input": "Hello.", "stream": True, "response_format": "pcm"}
HEARD = round(0.1 * 24_000) * 2


def test_what_runs_is_finished_and_nothing_new_is_taken(start: Callable[..., Process]) -> None:
    server = start()
    assert server.status_of("/ready") == 200
    with server.http.stream("POST", "/v1/audio/speech", json=BODY) as running:
        chunks = running.iter_raw()
        data = next(chunks)
        server.terminate()
        server.wait_until(lambda: server.status_of("/ready") == 503)
        assert server.http.get("/ready").json() == {"status": "draining"}
        assert server.status_of("/health") == 200
        refused = server.http.post("/v1/audio/speech", json=BODY)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["code"] == "overloaded"
        server.done.touch()
        data += b"".join(chunks)
    assert len(data) == 2 * HEARD
    assert server.end() == 0


def test_an_idle_server_ends_at_once_with_status_0(start: Callable[..., Process]) -> None:
    server = start()
    assert server.status_of("/health") == 200
    server.terminate()
    assert server.end() == 0


def test_what_takes_too_long_is_cut_off_and_the_status_tells(start: Callable[..., Process]) -> None:
    server = start(limit_s=0.3)
    with server.http.stream("POST", "/v1/audio/speech", json=BODY) as running:
        chunks = running.iter_raw()
        next(chunks)
        server.terminate()
        # Not as if all were said: the connection breaks.
        with pytest.raises(httpx2.RemoteProtocolError):
            list(chunks)
    assert server.end() == 1


def test_a_second_signal_ends_it_at_once(start: Callable[..., Process]) -> None:
    server = start(limit_s=600)
    with server.http.stream("POST", "/v1/audio/speech", json=BODY) as running:
        chunks = running.iter_raw()
        next(chunks)
        server.terminate()
        server.wait_until(lambda: server.status_of("/ready") == 503)
        server.terminate()
        with pytest.raises(httpx2.RemoteProtocolError):
            list(chunks)
    assert server.end() == 128 + signal.SIGTERM


def test_a_load_balancer_is_given_time_to_look_elsewhere(start: Callable[..., Process]) -> None:
    server = start(delay_s=600)
    server.terminate()
    server.wait_until(lambda: server.status_of("/ready") == 503)
    assert server.status_of("/v1/models") == 200  # Nothing runs, and yet it still answers.
    server.terminate()
    assert server.end() == 128 + signal.SIGTERM


def test_a_pipeline_beyond_repair_ends_the_process_with_status_1(start: Callable[..., Process]) -> None:
    server = start()
    with server.http.stream("POST", "/v1/audio/speech", json={**BODY, "input": "break"}) as running:
        chunks = running.iter_raw()
        next(chunks)
        with pytest.raises(httpx2.RemoteProtocolError):
            list(chunks)
    assert server.end() == 1


def test_systemd_is_told_if_it_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify("READY=1")
        assert systemd.recv(100) == b"READY=1"
        systemd.close()
        notify("STOPPING=1")  # Nobody listens any more: a warning, and no error.

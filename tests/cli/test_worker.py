"""Laws of `stentor worker`: it is found by the servers that name it, and strangers are kept out."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from stentor.bench.local_server import LocalServer
from stentor.cli.worker import check_listen
from stentor.errors import ConfigError
from tests.checkpoints import make_checkpoint

BODY = {"input": "The old dog saw the small boat.", "seed": 7, "max_new_tokens": 30}


@contextmanager
def worker(checkpoint: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A worker process and its address."""
    command = [sys.executable, "-m", "stentor", "worker", str(checkpoint), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = re.search(r"tcp://[\d.:]+", process.stderr.readline())
            assert found is not None
            yield process, found.group()
        finally:
            process.kill()


def test_a_server_speaks_through_a_worker_as_by_itself(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    spoken = []
    with worker(checkpoint) as (process, address):
        for device in (address, "cpu"):
            with LocalServer([str(checkpoint), "--device", device]) as server:
                answer = httpx2.post(f"{server.url}/v1/audio/speech", json=BODY, timeout=60)
                spoken.append(answer.raise_for_status().content)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert spoken[0] == spoken[1]
    assert len(spoken[0]) > 10_000


@pytest.mark.parametrize("listen", ["", "9000", ":9000", "host:", "host:port", "127.0.0.1"])
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        check_listen(listen, "secret")


def test_strangers_need_a_secret() -> None:
    for listen in ("127.0.0.1:9000", "localhost:0", "[::1]:9000"):
        check_listen(listen, "")
    for listen in ("0.0.0.0:9000", "10.0.0.2:9000", "*:9000"):
        check_listen(listen, "secret")
        with pytest.raises(ConfigError, match="STENTOR_PIPELINE_WORKER_SECRET"):
            check_listen(listen, "")

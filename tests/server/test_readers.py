"""Laws of bad readers and of too many: nothing is left of them, and whoever is refused is told so."""

import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest

from stentor.bench.local_server import LocalServer
from stentor.request import SpeechRequest
from tests.server.conftest import Running
from tests.server.fakes import Act, say, sound
from tests.server.readers import asking, wave

Serve = Callable[..., Running]

ENDLESS = {"input": "Hello there.", "stream": True, "response_format": "pcm"}


def endless(_: SpeechRequest) -> Iterator[Act]:
    while True:
        yield sound(0.5)
        yield 0.002


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_readers_who_vanish_or_do_not_read_leave_nothing(serve: Serve) -> None:
    server = serve(endless, max_requests=30, write_timeout_s=0.5)
    address = ("127.0.0.1", server.port)
    before: int | None = None
    for seed in range(3):
        assert wave(address, ENDLESS, count=20, seed=seed) > 5
        server.pipeline.wait_until(lambda: not server.pipeline.open, timeout_s=30)
        server.pipeline.wait_until(lambda: server.metric("stentor_speech_in_flight") == 0, timeout_s=30)
        before = open_files() if before is None else before
    assert before is not None
    # The connections of the last wave are gone, too.
    server.pipeline.wait_until(lambda: open_files() <= before + 5, timeout_s=30)
    assert server.metric('stentor_speech_requests_total{finish_reason="",outcome="aborted"}') > 15
    server.pipeline.script = say(0.1)
    assert server.speech().status_code == 200


def test_a_reader_who_stands_still_is_given_up(serve: Serve) -> None:
    server = serve(endless, write_timeout_s=0.3)
    with asking(("127.0.0.1", server.port), ENDLESS) as reader:
        assert reader.recv(16).startswith(b"HTTP/1.1 200")
        # From now on he holds the line, and does not read.
        server.pipeline.wait_until(lambda: not server.pipeline.open, timeout_s=30)


def test_four_times_too_many_get_all_places_served_and_the_rest_a_clear_refusal(serve: Serve) -> None:
    places = 6
    go = threading.Event()

    def script(request: SpeechRequest) -> Iterator[Act]:
        go.wait(60)
        yield from say(0.2)(request)

    server = serve(script, max_requests=places)
    for _ in range(2):  # A second time: nothing was worn out by the first.
        go.clear()
        responses = _all_at_once(server, places, go)
        served = [response for response in responses if response.status_code == 200]
        assert len(served) == places
        assert len({response.content for response in served}) == 1
        for response in responses:
            if response.status_code != 200:
                assert response.status_code == 503
                assert int(response.headers["Retry-After"]) >= 1
                assert response.json()["error"]["code"] == "overloaded"
        server.pipeline.wait_until(lambda: not server.pipeline.open, timeout_s=60)


def _all_at_once(server: Running, places: int, go: threading.Event) -> list[httpx2.Response]:
    """Four times as many as there are places; who is refused knows it while the others wait to be served."""
    with ThreadPoolExecutor(4 * places) as pool:
        answers = [pool.submit(_speak, server.url) for _ in range(4 * places)]
        try:
            server.pipeline.wait_until(
                lambda: sum(answer.done() for answer in answers) == 3 * places, timeout_s=60
            )
        finally:
            go.set()
        return [answer.result() for answer in answers]


def _speak(url: str) -> httpx2.Response:
    body = {"input": "Hello.", "response_format": "pcm"}
    return httpx2.post(f"{url}/v1/audio/speech", json=body, timeout=60, trust_env=False)


# What each process may have grown by, in MiB, between the fifth and the last of twenty waves of 50 readers.
# For the front door that is 8 KiB a reader (measured: 3 MiB in all). The vocoder grows in steps towards what
# its largest batches take (measured: 88): that and tables for each shape are kept, whoever reads.
GROWTH_MIB = {"server": 6.0, "encode": 6.0, "generate": 6.0, "vocode": 160.0}


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_thousand_bad_readers_of_the_real_voice_leave_nothing() -> None:
    """The built-in voice speaks to 1,000 of them; blocks and files are free and memory is flat afterwards."""
    text = "The old dog saw the small boat near the river, and then it went back to the house on the hill."
    # Of raw PCM a sentence would fit into the system's buffers.
    body = {"input": text, "stream_format": "audio", "response_format": "wav", "sample_rate": 48_000}
    settings = ["--write-timeout-s", "2", "--max-requests", "64", "--log-level", "warning"]
    # How each request ended is known for ten minutes: not in this test.
    settings += ["--outcome-age-s", "0"]
    memory_mib: dict[str, list[float]] = defaultdict(list)
    files: list[int] = []
    served = 0
    with LocalServer(settings) as server:
        where = urlsplit(server.url)
        address = (str(where.hostname), int(where.port or 0))
        for number in range(20):
            served += wave(address, body, count=50, seed=number)
            _wait_until_idle(server.url)
            processes = _processes_of(server)
            files.append(processes["server"].num_fds())
            for name, process in processes.items():
                memory_mib[name].append(process.memory_info().rss / 2**20)
        said = httpx2.post(
            f"{server.url}/v1/audio/speech", json={"input": text}, timeout=120, trust_env=False
        )
        assert said.status_code == 200
    print(f"\n{served} of 1000 were being served; open files of the server after each wave: {files}")
    for name, sizes in memory_mib.items():
        print(f"RSS of {name} in MiB after each wave: {[round(size) for size in sizes]}")
    # Three of four wait for their answer, and there is a place for each.
    assert served > 700
    assert files[-1] <= files[0] + 5
    grown = {name: max(sizes[16:]) - sizes[4] for name, sizes in memory_mib.items()}
    assert not {name: mib for name, mib in grown.items() if mib > GROWTH_MIB[name]}


def _processes_of(server: LocalServer) -> dict[str, psutil.Process]:
    """The server's process and its workers', which are started in the order of their stages."""
    port = urlsplit(server.url).port
    mine = psutil.Process().children(recursive=True)
    (owner,) = [
        process
        for process in mine
        if any(c.laddr.port == port and c.status == "LISTEN" for c in process.net_connections("tcp"))
    ]
    workers = sorted(owner.children(recursive=True), key=lambda process: process.create_time())
    return dict(zip(("server", "encode", "generate", "vocode"), [owner, *workers], strict=True))


def _wait_until_idle(url: str) -> None:
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        text = httpx2.get(f"{url}/metrics", timeout=60, trust_env=False).text
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        busy = [
            'stentor_requests{state="open"}',
            'stentor_requests{state="ending"}',
            "stentor_speech_in_flight",
            'stentor_stage_kv_blocks_used{stage="generate"}',
            'stentor_stage_sequences_running{stage="generate"}',
            'stentor_stage_streams{stage="vocode"}',
        ]
        if all(float(lines[name]) == 0 for name in busy):
            return
        time.sleep(0.1)
    pytest.fail(f"it is not idle: {[(name, lines[name]) for name in busy]}")


def test_the_small_buffer_is_small() -> None:
    """What the laws above rest on: the system grants about what was asked for."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 16_384

"""Laws of the server benchmark: a warm-up, then every level in order, and an error where nobody speaks."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from stentor.bench.client import Target, first_model
from stentor.bench.serve import measure
from stentor.errors import ConfigError


class Speaker(BaseHTTPRequestHandler):
    """Answers each text with a tenth of a second of silence."""

    texts: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        Speaker.texts.append(body["input"])
        self._answer(bytes(4800))

    def do_GET(self) -> None:
        self._answer(json.dumps({"data": [{"id": "speaker"}]}).encode() if "models" in self.path else b"")

    def _answer(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Speaker) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_each_level_sends_its_share_after_a_warm_up(url: str) -> None:
    Speaker.texts.clear()
    levels = measure(Target(url), [1, 3], 2, lambda _: None)
    assert [(level.concurrency, len(level.timings)) for level in levels] == [(1, 2), (3, 6)]
    assert len(Speaker.texts) == 1 + 2 + 6
    assert levels[1].row()["audio_s"] == pytest.approx(0.6)


def test_the_server_is_asked_for_its_model(url: str) -> None:
    assert first_model(url) == "speaker"
    assert first_model("http://127.0.0.1:9") == ""


def test_a_server_that_does_not_speak_is_an_error_before_any_level() -> None:
    with pytest.raises(ConfigError, match="does not speak"):
        measure(Target("http://127.0.0.1:9", timeout_s=5), [1], 1, lambda _: None)

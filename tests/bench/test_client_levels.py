"""Laws of the server benchmark: a warm-up, then every level in order, and an error where nobody speaks."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

import pytest

from stentor.bench.client import Target, first_model, measure_levels
from stentor.errors import ConfigError
from tests.bench.served import Handler, served


class Speaker(Handler, BaseHTTPRequestHandler):
    """Answers each text with a tenth of a second of silence."""

    texts: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        assert self.path == "/v1/audio/speech"
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        Speaker.texts.append(body["input"])
        self.answer(bytes(4800))

    def do_GET(self) -> None:
        models = self.path == "/v1/models"
        self.answer(json.dumps({"data": [{"id": "speaker"}]}).encode() if models else b"")


@pytest.fixture
def url() -> Iterator[str]:
    with served(Speaker) as url:
        yield url


def test_each_level_sends_its_share_after_a_warm_up(url: str) -> None:
    Speaker.texts.clear()
    levels = measure_levels(Target(url), [1, 3], 2, lambda _: None)
    assert [(level.concurrency, len(level.timings)) for level in levels] == [(1, 2), (3, 6)]
    assert len(Speaker.texts) == 1 + 2 + 6
    assert levels[1].row()["audio_s"] == pytest.approx(0.6)


def test_the_server_is_asked_for_its_model(url: str) -> None:
    assert first_model(url) == first_model(f"{url}/") == "speaker"
    assert measure_levels(Target(f"{url}/"), [1], 1, lambda _: None)[0].timings
    assert first_model("http://127.0.0.1:9") == ""


def test_a_server_that_does_not_speak_is_an_error_before_any_level() -> None:
    with pytest.raises(ConfigError, match="does not speak"):
        measure_levels(Target("http://127.0.0.1:9", timeout_s=5), [1], 1, lambda _: None)

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stentor.audio.formats import to_pcm16
from stentor.audio.load import decode
from stentor.errors import InternalError
from stentor.server.elevenlabs.routes import models
from tests.server.conftest import Running
from tests.server.fakes import RATE, Act, say, sound, tone

Serve = Callable[..., Running]


def post(running: Running, path: str = "", format: str = "pcm_24000", **body: Any) -> Any:
    url = f"/v1/text-to-speech/default{path}?output_format={format}"
    return running.http.post(url, json={"text": "Hello there.", **body}, headers={"xi-api-key": "unused"})


def test_all_four_say_the_same(serve: Serve) -> None:
    running = serve(say(0.4))
    expected = to_pcm16(tone(0.4))
    assert post(running).content == expected
    assert post(running, "/stream").content == expected
    timed = post(running, "/with-timestamps").json()
    assert base64.b64decode(timed["audio_base64"]) == expected
    assert timed["alignment"] is None
    lines = [json.loads(line) for line in post(running, "/stream/with-timestamps").text.splitlines()]
    assert len(lines) > 1
    assert b"".join(base64.b64decode(line["audio_base64"]) for line in lines) == expected
    assert [request.stream for request in running.pipeline.requests] == [False, True, False, True]


def test_mp3_is_what_comes_unless_asked_for_otherwise(serve: Serve) -> None:
    running = serve(say(0.5))
    answer = running.http.post("/v1/text-to-speech/default", json={"text": "Hello.", "previous_text": "So."})
    assert answer.headers["Content-Type"] == "audio/mpeg"
    assert answer.headers["X-Stentor-Warning"] == "ignored: previous_text"
    length_s = len(decode(answer.content, sample_rate_hz=RATE, max_seconds=5)) / RATE
    assert length_s == pytest.approx(0.5, abs=0.1)
    assert len(post(running, "/stream", "ulaw_8000").content) == 0.5 * 8000


@pytest.mark.parametrize(
    ("path", "body", "status", "word", "param"),
    [
        ("default", {"text": ""}, 400, "invalid_request", "text"),
        ("nobody", {}, 404, "voice_not_found", None),
        ("default", {"model_id": "other"}, 404, "model_not_found", None),
        ("default", {"text": "x" * 5000}, 413, "max_character_limit_exceeded", "text"),
        ("default?output_format=mp3", {}, 400, "invalid_output_format", "output_format"),
        ("default", {"voice_settings": {"speed": 9}}, 400, "invalid_request", "voice_settings.speed"),
    ],
)
def test_errors_are_told_as_elevenlabs_does(
    serve: Serve, path: str, body: dict[str, Any], status: int, word: str, param: str | None
) -> None:
    running = serve()
    answer = running.http.post(f"/v1/text-to-speech/{path}", json={"text": "Hello.", **body})
    assert (answer.status_code, answer.json()["detail"]["status"]) == (status, word)
    assert answer.json()["detail"]["message"] == answer.json()["error"]["message"]
    assert answer.json()["detail"]["param"] == param


def test_a_full_house_and_a_failure_are_told_so_too(serve: Serve) -> None:
    def broken(_: Any) -> Iterator[Act]:
        yield InternalError("the stage has failed")

    running = serve(broken)
    assert post(running, "/stream").json()["detail"]["message"] == "the stage has failed"
    running.pipeline.max_requests = 0
    full = post(running)
    assert (full.status_code, full.json()["detail"]["status"]) == (503, "system_busy")
    assert full.headers["Retry-After"] == "3"


def test_voices_and_models_have_their_shapes(serve: Serve) -> None:
    running = serve()
    listed = running.http.get("/v1/voices").json()["voices"]
    assert [voice["voice_id"] for voice in listed] == ["default"]
    assert running.http.get("/v2/voices").json() == {
        "voices": listed,
        "has_more": False,
        "total_count": 1,
        "next_page_token": None,
    }
    assert running.http.get("/v1/voices/default").json() == listed[0]
    assert running.http.get("/v1/voices/nobody").json()["detail"]["status"] == "voice_not_found"
    preview = listed[0]["preview_url"].removeprefix(running.url)
    assert running.http.get(preview).status_code == 200
    theirs = running.http.get("/v1/models", headers={"xi-api-key": "unused"}).json()
    assert theirs == models("stentor-test", "en", 4096)
    assert theirs[0]["can_do_text_to_speech"]
    assert running.http.get("/v1/models").json()["object"] == "list"


def test_an_unfinished_stream_breaks_off(serve: Serve) -> None:
    def script(_: Any) -> Iterator[Act]:
        yield sound(0.8)
        yield InternalError("lost")

    running = serve(script)
    with pytest.raises(Exception, match=r"incomplete|closed|peer"):
        post(running, "/stream")

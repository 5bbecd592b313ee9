import base64
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from stentor.audio.formats import FORMATS, content_type, to_pcm16
from stentor.errors import InternalError
from stentor.request import FinishReason, SpeechRequest
from tests.server.conftest import Running
from tests.server.fakes import RATE, USAGE, Act, say, sound, tone
from tests.server.test_answer import ask, endless

Serve = Callable[..., Running]


def batch(server: Running, *items: dict[str, Any], **shared: Any) -> httpx2.Response:
    return server.http.post("/v1/audio/speech/batch", json={"items": list(items), **shared})


def by_text(request: SpeechRequest) -> Iterator[Act]:
    """Says as many tenths of a second as the text has letters; "fail" fails."""
    if request.text == "fail":
        yield InternalError("a worker died")
        return
    seconds = len(request.text) / 10
    yield sound(seconds, finish_reason=FinishReason.STOP, usage=USAGE)


def test_each_item_gets_its_own_audio_in_order(serve: Serve) -> None:
    server = serve(by_text)
    texts = ["a", "bbbb", "cc"] * 5
    answer = batch(server, *({"input": text} for text in texts), response_format="pcm").json()
    assert (answer["total"], answer["succeeded"], answer["failed"]) == (15, 15, 0)
    assert [result["index"] for result in answer["results"]] == list(range(15))
    for text, result in zip(texts, answer["results"], strict=True):
        assert base64.b64decode(result["audio_data"]) == to_pcm16(tone(len(text) / 10))
        assert (result["status"], result["finish_reason"]) == ("success", "stop")
        assert result["usage"] == {"input_tokens": 12, "output_tokens": 34, "total_tokens": 46}
        assert result["audio_seconds"] == pytest.approx(len(text) / 10)


def test_an_items_own_fields_win_over_the_shared_ones(serve: Serve) -> None:
    server = serve(by_text)
    formats = [{"input": "aa", "response_format": format} for format in FORMATS]
    answer = batch(server, *formats, {"input": "aa", "response_format": None}, response_format="mp3", seed=3)
    told = [
        (result["response_format"], result["media_type"], result["seed"])
        for result in answer.json()["results"]
    ]
    assert told == [(format, content_type(format), 3) for format in (*FORMATS, "mp3")]


def test_an_item_with_a_voice_has_none_of_the_shared_reference(serve: Serve) -> None:
    server = serve(by_text)
    codes = [[1] * 8] * 3
    batch(
        server, {"input": "a"}, {"input": "bb", "voice": "alloy"}, reference_codes=codes, reference_text="Hi."
    )
    by_input = {request.text: request.reference for request in server.pipeline.requests}
    assert by_input["a"] is not None
    assert by_input["a"].text == "Hi."
    assert by_input["bb"] is None


def test_what_is_wrong_with_one_item_is_its_own_error(serve: Serve) -> None:
    server = serve(by_text)
    answer = batch(
        server,
        {"input": "good"},
        {"input": "fail"},
        {"input": "hi", "tempo": 1},
        {"inptu": "hi"},
        {"input": "hi", "voice": "otto"},
        {"input": "hi", "stream": True},
        {"input": "hi", "references": [{"text": 1}]},
    )
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["status"] for result in results] == ["success", *["error"] * 6]
    told = [(result["error"]["code"], result["error"]["param"]) for result in results[1:]]
    assert told == [
        (None, None),
        ("unknown_field", "items[2].tempo"),
        ("unknown_field", "items[3].inptu"),
        ("voice_not_found", "voice"),
        (None, "stream"),
        (None, "items[6].references[0].text"),
    ]
    assert results[1]["error"]["message"] == "a worker died"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "items"),
        ({"items": []}, "items"),
        ({"items": ["a"]}, "items[0]"),
        ({"items": [{"input": "a"}], "tempo": 1}, "tempo"),
        ({"items": [{"input": "a"}], "speed": "fast"}, "speed"),
        ({"items": [{"input": "a"}] * 4}, "items"),
    ],
)
def test_a_batch_that_is_itself_wrong_is_refused(serve: Serve, body: dict[str, Any], param: str) -> None:
    response = serve(by_text, max_batch_items=3).http.post("/v1/audio/speech/batch", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_batch_takes_eight_places_at_a_time(serve: Serve) -> None:
    release = threading.Event()
    most = 0

    def script(request: SpeechRequest) -> Iterator[Act]:
        nonlocal most
        most = max(most, len(server.pipeline.open))
        release.wait(10)
        yield from by_text(request)

    server = serve(script)
    caller = threading.Thread(target=batch, args=(server, *[{"input": "a"}] * 20))
    caller.start()
    server.pipeline.wait_until(lambda: len(server.pipeline.open) == 8)
    release.set()
    caller.join(10)
    assert most == 8
    assert len(server.pipeline.requests) == 20


def test_a_full_house_is_the_items_error_unless_it_is_everyones(serve: Serve) -> None:
    refused = batch(serve(by_text, max_requests=0), {"input": "a"}, {"input": "b"})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "3")
    mixed = batch(serve(by_text, max_requests=0), {"input": "a"}, {"input": "b", "voice": "otto"})
    assert mixed.status_code == 200
    assert [result["error"]["code"] for result in mixed.json()["results"]] == [
        "overloaded",
        "voice_not_found",
    ]


def test_a_batch_of_a_key_is_within_what_it_may_have_at_a_time(serve: Serve) -> None:
    server = serve(say(0.1), access={"api_keys": "alice:alice-secret", "key_concurrent_requests": 2})
    server.http.headers["Authorization"] = "Bearer alice-secret"
    answer = batch(server, *[{"input": "Hello."}] * 6).json()
    assert (answer["succeeded"], answer["failed"]) == (6, 0)


def test_each_items_outcome_can_be_asked_for(serve: Serve) -> None:
    server = serve(by_text)
    results = batch(server, {"input": "a"}, {"input": "b"}).json()["results"]
    for result in results:
        assert server.http.get(f"/v1/audio/speech/{result['id']}").json()["status"] == "done"


def test_who_leaves_frees_every_place(serve: Serve) -> None:
    server = serve(endless)
    connection = ask(server, path="/v1/audio/speech/batch", items=[{"input": "a"}] * 5)
    server.pipeline.wait_until(lambda: len(server.pipeline.open) == 5)
    connection.close()
    server.pipeline.wait_until(lambda: not server.pipeline.open)


def test_a_batch_item_is_shaped(serve: Serve) -> None:
    answer = batch(serve(say(1.0)), {"input": "a"}, speed=2, sample_rate=8_000, response_format="pcm").json()
    (result,) = answer["results"]
    assert len(base64.b64decode(result["audio_data"])) == 2 * 4_000
    assert (result["sample_rate"], result["audio_seconds"]) == (8_000, 0.5)
    assert RATE == 24_000

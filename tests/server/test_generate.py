"""`POST /generate` is the route of speech under other names."""

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec import structs

from stentor.errors import RequestError
from stentor.request import SpeechRequest
from tests.server.conftest import Running
from tests.server.fakes import INFO, Act, say

Serve = Callable[..., Running]
CLIP = base64.b64encode(b"RIFF a recording").decode()


def test_what_is_asked_for_there_is_what_is_said_here(serve: Serve) -> None:
    running = serve(say(0.5), info=structs.replace(INFO, reads_instructions=True))
    body = {
        "text": "[SPEAKER0] Hello!\n[SPEAKER1] Hi there!",
        "system_prompt": "Two friends having a casual conversation",
        "temperature": 0.3,
        "max_tokens": 2048,
        "reference_audio_base64": CLIP,
        "reference_text": "I said this.",
        "seed": 7,
    }
    answer = running.http.post("/generate", json=body)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "audio/wav")
    assert len(answer.content) == 44 + 2 * 12_000
    (request,) = running.pipeline.requests
    assert (request.text, request.instructions) == (body["text"], body["system_prompt"])
    assert request.reference is not None
    assert (request.reference.audio, request.reference.text) == (CLIP, "I said this.")
    sampling = request.sampling
    assert (sampling.temperature, sampling.max_new_tokens, sampling.seed) == (0.3, 2048, 7)


def test_a_text_alone_will_do(serve: Serve) -> None:
    running = serve(say(0.5))
    assert running.http.post("/generate", json={"text": "Hello."}).status_code == 200
    assert running.speech(input="Hello.").status_code == 200
    here, there = running.pipeline.requests
    same = {"request_id": "", "sampling": here.sampling}
    assert structs.replace(here, **same) == structs.replace(there, **same)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"text": " "}, "text"),
        ({"text": "x", "max_tokens": 0}, "max_tokens"),
        ({"text": "x", "reference_text": "I said this."}, "reference_audio_base64"),
        ({"text": "x", "speed": 2}, "speed"),
        ({}, "text"),
    ],
)
def test_errors_name_the_fields_as_they_are_named_there(
    serve: Serve, body: dict[str, Any], param: str
) -> None:
    answer = serve(say(0.5)).http.post("/generate", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("path", ["/generate", "/v1/text-to-speech/default"])
def test_what_is_found_out_on_the_way_is_told_under_the_fields_name_too(serve: Serve, path: str) -> None:
    def script(_: SpeechRequest) -> Iterator[Act]:
        yield RequestError("a bad text", param="input")

    answer = serve(script).http.post(path, json={"text": "Hello."})
    assert answer.json()["error"]["param"] == "text"


@pytest.mark.parametrize("body", [{"input": "x"}, {"text": "x", "voice": "nova"}])
def test_a_field_of_another_route_is_not_advised(serve: Serve, body: dict[str, Any]) -> None:
    message = serve(say(0.5)).http.post("/generate", json=body).json()["error"]["message"]
    assert "the known ones are text, system_prompt, temperature," in message

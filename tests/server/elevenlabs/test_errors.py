"""Laws of ElevenLabs' errors: whatever goes wrong on its paths, wherever, is told in its shape."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from stentor.errors import (
    AuthenticationError,
    InternalError,
    OverloadedError,
    RateLimitedError,
    RequestError,
    StentorError,
    TooLargeError,
)
from stentor.server.app import create_app
from stentor.server.elevenlabs.errors import status_name
from tests.server.conftest import Front, Running
from tests.server.fakes import INFO, FakePipeline, config, say, voices

Serve = Callable[..., Running]

PATH = "/v1/text-to-speech/default"
HELLO = {"text": "Hello."}


def told(answer: Any, status: int, word: str) -> str:
    """The message of an error in ElevenLabs' shape, and OpenAI's beside it."""
    assert answer.status_code == status, answer.text
    detail, error = answer.json()["detail"], answer.json()["error"]
    assert detail["status"] == word
    assert detail["message"] == error["message"]
    assert answer.headers["X-Request-Id"]
    return str(detail["message"])


@pytest.mark.parametrize(
    ("method", "path"), [("POST", PATH), ("GET", "/v1/voices"), ("GET", "/v2/voices"), ("GET", "/v1/models")]
)
def test_a_missing_and_a_wrong_key(serve: Serve, method: str, path: str) -> None:
    server = serve(access={"api_keys": "a-right-key"})
    refused = server.http.request(method, path, headers={"xi-api-key": "a-wrong-key"})
    assert "not known" in told(refused, 401, "invalid_api_key")
    if path != "/v1/models":  # Without its header that one is OpenAI's.
        assert "missing" in told(server.http.request(method, path), 401, "invalid_api_key")
    assert server.pipeline.requests == []


def test_a_key_of_another_form_gets_openais_errors_on_openais_paths(serve: Serve) -> None:
    server = serve(access={"api_keys": "a-right-key"})
    assert "detail" not in server.http.get("/v1/models").json()


def test_a_share_used_up_and_a_full_house_say_when_to_come_back(serve: Serve) -> None:
    server = serve(say(0.1), access={"api_keys": "a-right-key", "key_requests_per_minute": 1})
    headers = {"xi-api-key": "a-right-key"}
    assert server.http.post(PATH, json=HELLO, headers=headers).status_code == 200
    limited = server.http.post(PATH, json=HELLO, headers=headers)
    told(limited, 429, "system_busy")
    assert int(limited.headers["Retry-After"]) >= 1
    full = serve(max_requests=0).http.post(PATH + "/stream", json=HELLO)
    told(full, 503, "system_busy")
    assert int(full.headers["Retry-After"]) >= 1


def test_a_wrong_body_address_or_method(serve: Serve) -> None:
    http = serve().http
    assert told(http.post(PATH, json={}), 400, "invalid_request") == "text is missing"
    told(http.post(PATH, content=b"{", headers={"Content-Type": "application/json"}), 400, "invalid_request")
    told(http.post("/v1/text-to-speech/nobody", json=HELLO), 404, "voice_not_found")
    told(http.get("/v1/voices/nobody"), 404, "voice_not_found")
    told(http.get("/v1/voices/nobody/settings"), 404, "not_found")
    told(http.get("/v1/user/subscription", headers={"xi-api-key": "unused"}), 404, "not_found")
    told(http.get(PATH), 405, "method_not_allowed")


def test_a_page_of_another_site(serve: Serve) -> None:
    told(serve().http.post(PATH, json=HELLO, headers={"Sec-Fetch-Site": "cross-site"}), 403, "forbidden")


def test_a_socket_is_refused_with_a_status(serve: Serve) -> None:
    port = serve(access={"api_keys": "a-right-key"}).port
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{port}{PATH}/stream-input", proxy=None)
    assert refused.value.response.status_code == 401
    assert b'"status": "invalid_api_key"' in (refused.value.response.body or b"")


def test_a_defect_is_a_500_that_names_its_request(
    front_and_port: tuple[Front, int], serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    front, _ = front_and_port

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    store: Any = voices()
    store.all = broken
    pipeline: Any = FakePipeline()
    front.app = create_app(pipeline, INFO, store, config())
    answer = server.http.get("/v1/voices")
    told(answer, 500, "internal_server_error")
    assert answer.headers["X-Request-Id"] in caplog.text
    # uvicorn closes the connection on which something broke.
    with httpx2.Client(base_url=server.url, trust_env=False) as anew:
        assert 'stentor_http_responses_total{status="500"} 1.0' in anew.get("/metrics").text
        assert "detail" not in anew.get("/v1/audio/voices").json()


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (TooLargeError("x", code="y"), "max_character_limit_exceeded"),
        (RequestError("x"), "invalid_request"),
        (RequestError("x", code="y"), "y"),
        (AuthenticationError("x", code="invalid_api_key"), "invalid_api_key"),
        (OverloadedError("x"), "system_busy"),
        (RateLimitedError("x"), "system_busy"),
        (InternalError("x"), "internal_server_error"),
    ],
)
def test_each_kind_of_error_has_its_word(error: StentorError, word: str) -> None:
    assert status_name(error) == word

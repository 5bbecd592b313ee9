import asyncio
import itertools
import json
import socket
import string
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stentor.server.app import create_app
from stentor.server.bodies import FIELDS
from tests.server.conftest import Running
from tests.server.fakes import INFO, FakePipeline, config, say, voices

Serve = Callable[..., Running]

JSON = {"Content-Type": "application/json"}
TOO_MANY_BYTES = 16 * 2**20

numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([0, 1, -1, 2**63, 1e308])
words = st.text(max_size=8) | st.sampled_from(["wav", "mp3", "pcm", "sse", "audio", "default", "/etc/passwd"])
values = st.recursive(
    numbers | words,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | words, inner, max_size=3)
    ),
    max_leaves=6,
)
# Mostly a request that could be served, with something odd in it.
bodies = st.builds(
    lambda odd, text: {"input": text, **odd},
    st.dictionaries(st.sampled_from(FIELDS) | words, values, max_size=3),
    st.just("Hello.") | words,
)


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """The error object, checked for its form."""
    assert response.headers["Content-Type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) > 10
    assert response.headers["X-Request-Id"]
    return dict(error)


def test_every_answer_has_an_id_of_its_own(serve: Serve) -> None:
    server = serve()
    answers = [server.http.get(path) for path in ("/health", "/health", "/metrics", "/nowhere", "/v1/models")]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == len(answers)


def test_a_clients_own_id_is_taken_if_it_is_sane(serve: Serve) -> None:
    http = serve().http
    for own in ("req-1", "01HZ:a.b_c", "x" * 64):
        assert http.get("/health", headers={"X-Request-Id": own}).headers["X-Request-Id"] == own
    for own in ("", "x" * 65, "a b", "a\tb", 'a"b', "%0a"):
        told = http.get("/health", headers={"X-Request-Id": own}).headers["X-Request-Id"]
        assert told != own
        assert len(told) == 32


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/docs", 404),
        ("POST", "/v1/audio/transcriptions", 404),
        ("GET", "/v1/audio/speech", 405),
        ("DELETE", "/health", 405),
    ],
)
def test_what_does_not_exist_is_an_error_object(serve: Serve, method: str, path: str, status: int) -> None:
    response = serve().http.request(method, path)
    assert response.status_code == status
    assert path in error_of(response)["message"]
    assert ("Allow" in response.headers) is (status == 405)


@pytest.mark.parametrize(
    ("content", "headers", "said"),
    [
        (b"", JSON, "must be a JSON object"),
        (b"{", JSON, "not valid JSON"),
        (b"[]", JSON, "must be a JSON object"),
        (b'"Hello."', JSON, "must be a JSON object"),
        (b"\xff{}", JSON, "cannot be read as JSON"),
        (b"[" * 100_000, JSON, "cannot be read as JSON"),
        (b'{"input": "Hi.", "seed": ' + b"9" * 5_000 + b"}", JSON, "cannot be read as JSON"),
        (b'{"input": "Hi."}', {}, "Content-Type: application/json"),
        (
            b"input=Hi.",
            {"Content-Type": "application/x-www-form-urlencoded"},
            "Content-Type: application/json",
        ),
        (b'{"input": "\\ud800"}', JSON, "half a character"),
        (b'{"input": "Hi.", "ref_audio": "AAAA", "ref_text": "\\ud800"}', JSON, "half a character"),
        (b'{"input": "Hi.", "\\ud800": 1}', JSON, "JSON object"),
        (b'{"input": "Hi.", "temperature": NaN}', JSON, "temperature is nan"),
        (b'{"input": "Hi.", "temperature": Infinity}', JSON, "temperature is inf"),
        (b'{"input": "Hi.", "top_p": -Infinity}', JSON, "top_p is -inf"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_body_that_is_no_request_is_a_clear_400(
    serve: Serve, content: bytes, headers: dict[str, str], said: str
) -> None:
    server = serve()
    response = server.http.post("/v1/audio/speech", content=content, headers=headers)
    assert response.status_code == 400
    assert said in error_of(response)["message"]
    assert server.pipeline.requests == []


def test_a_body_announced_over_the_limit_is_413_before_it_is_sent(serve: Serve) -> None:
    head = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {TOO_MANY_BYTES}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", serve().port)) as connection:
        connection.sendall(f"POST /v1/audio/speech HTTP/1.1\r\n{head}".encode())
        connection.settimeout(5)
        answer = connection.recv(65_536).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert "connection: close" in answer.lower()
    assert "too large" in answer


def test_a_body_that_grows_over_the_limit_is_413(serve: Serve) -> None:
    pieces = itertools.repeat(b" " * 65_536, TOO_MANY_BYTES // 65_536)
    try:
        response = serve().http.post("/v1/audio/speech", content=pieces, headers=JSON)
    except httpx2.WriteError:
        return  # The server has closed the connection while we were still sending, which is its right.
    assert response.status_code == 413
    assert "too large" in error_of(response)["message"]


def test_a_reference_as_large_as_allowed_fits_into_a_body(serve: Serve) -> None:
    server = serve()
    data = "A" * (10 * 2**20 * 4 // 3)
    assert server.speech(references=[{"data": data}]).status_code == 200


def test_the_text_limit_is_the_configured_one(serve: Serve) -> None:
    server = serve(max_input_chars=5)
    assert server.speech(input="Hello").status_code == 200
    response = server.speech(input="Hello!")
    assert response.status_code == 413
    assert error_of(response)["param"] == "input"


def test_a_defect_is_a_500_with_an_error_object(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()

    def defect(_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(server.pipeline, "submit", defect)
    response = server.speech()
    assert response.status_code == 500
    assert "secret" not in error_of(response)["message"]


def test_the_schema_describes_the_body(serve: Serve) -> None:
    schema = serve().http.get("/openapi.json").json()
    assert {"/v1/audio/speech", "/v1/models", "/health", "/metrics", "/v1/audio/voices"} <= set(
        schema["paths"]
    )
    body = schema["components"]["schemas"]["SpeechBody"]
    assert body["required"] == ["input"]
    assert all("description" in field for field in body["properties"].values())


@pytest.fixture
def server(serve: Serve) -> Running:
    """One for all examples of a test."""
    return serve(say(0.05))


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=bodies)
def test_no_body_whatever_is_a_500(server: Running, body: dict[str, Any]) -> None:
    response = server.http.post("/v1/audio/speech", content=json.dumps(body).encode(), headers=JSON)
    assert response.status_code in (200, 400, 404, 413)
    if response.status_code != 200:
        error_of(response)


@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=st.binary(max_size=60) | st.text(string.printable, max_size=60).map(str.encode))
def test_no_bytes_whatever_are_a_500(server: Running, content: bytes) -> None:
    response = server.http.post("/v1/audio/speech", content=content, headers=JSON)
    assert response.status_code in (200, 400)


def test_the_app_ends_its_threads_with_itself() -> None:
    app = create_app(FakePipeline(), INFO, voices(), config())  # type: ignore[arg-type]
    assert isinstance(app, FastAPI)

    async def live_and_die() -> None:
        async with app.router.lifespan_context(app):
            pass

    asyncio.run(live_and_die())

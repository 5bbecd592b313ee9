"""401, 429 and 503 as the client libraries see them: their own errors, and another try where one is made."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.clients.conftest import Run
from tests.server.conftest import Running
from tests.server.fakes import say

Serve = Callable[..., Running]

KEY = "a-right-key"
SPEAK = {"model": "tts-1", "voice": "alloy", "input": "Hello."}
# Environment, program, what it calls a wrong key and a share used up.
LIBRARIES = [
    pytest.param(
        "node",
        "node_refused.mjs",
        {"kind": "AuthenticationError", "status": 401, "code": "invalid_api_key"},
        {"kind": "RateLimitError", "status": 429, "code": "rate_limit_exceeded"},
        id="openai-node",
    ),
    pytest.param(
        "litellm",
        "litellm_refused.py",
        {"kind": "AuthenticationError", "status": 401},
        {"kind": "RateLimitError", "status": 429},
        id="litellm",
    ),
    pytest.param(
        "elevenlabs",
        "elevenlabs_refused.py",
        {"kind": "ApiError", "status": 401, "code": "invalid_api_key"},
        {"kind": "ApiError", "status": 429, "code": "system_busy"},
        id="elevenlabs",
    ),
]


def served(serve: Serve, **access: Any) -> Running:
    return serve(say(0.1), access={"api_keys": KEY, **access})


@contextmanager
def full_at_first(server: Running) -> Iterator[None]:
    """There is no place until somebody was refused for that."""
    pipeline = server.pipeline
    pipeline.max_requests, pipeline.retry_after_s = 0, 1.0
    submit, refused = pipeline.submit, threading.Event()

    def refuse_once(*arguments: Any, **how: Any) -> Any:
        try:
            return submit(*arguments, **how)
        finally:
            pipeline.max_requests = 64
            refused.set()

    pipeline.submit = refuse_once  # type: ignore[method-assign]
    yield
    assert refused.is_set()
    assert server.metric('stentor_speech_requests_total{finish_reason="",outcome="overloaded"}') == 1


def facts(folder: Path) -> dict[str, Any]:
    known: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    return known


def test_openais_library_tries_a_full_house_again(serve: Serve) -> None:
    server = served(serve)
    with (
        full_at_first(server),
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=1) as client,
    ):
        assert client.audio.speech.create(**SPEAK).content  # type: ignore[arg-type]


def test_openais_library_has_an_error_of_its_own_for_each(serve: Serve) -> None:
    server = served(serve, key_requests_per_minute=1)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="a-wrong-key", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as wrong:
            client.audio.speech.create(**SPEAK)  # type: ignore[arg-type]
        assert wrong.value.code == "invalid_api_key"
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        assert client.audio.speech.create(**SPEAK).content  # type: ignore[arg-type]
        with pytest.raises(openai.RateLimitError) as limited:
            client.audio.speech.create(**SPEAK)  # type: ignore[arg-type]
        assert int(limited.value.response.headers["Retry-After"]) >= 1
        server.pipeline.max_requests = 0
    full = served(serve)
    full.pipeline.max_requests = 0
    with openai.OpenAI(base_url=f"{full.url}/v1", api_key=KEY, max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as busy:
            client.audio.speech.create(**SPEAK)  # type: ignore[arg-type]
        assert (busy.value.status_code, busy.value.code) == (503, "overloaded")


@pytest.mark.clients
@pytest.mark.parametrize(("environment", "program", "wrong", "limited"), LIBRARIES)
def test_each_library_tells_a_wrong_key_from_a_share_used_up(
    run: Run, serve: Serve, environment: str, program: str, wrong: dict[str, Any], limited: dict[str, Any]
) -> None:
    server = served(serve, key_requests_per_minute=1)
    assert facts(run(environment, program, server.url, "a-wrong-key", "0")) == wrong
    assert facts(run(environment, program, server.url, KEY, "0"))["bytes"] > 0
    assert facts(run(environment, program, server.url, KEY, "0")) == limited


@pytest.mark.clients
@pytest.mark.parametrize(
    ("environment", "program"), [("node", "node_refused.mjs"), ("litellm", "litellm_refused.py")]
)
def test_a_full_house_is_tried_again(run: Run, serve: Serve, environment: str, program: str) -> None:
    server = served(serve)
    with full_at_first(server):
        assert facts(run(environment, program, server.url, KEY, "2"))["bytes"] > 0


@pytest.mark.clients
def test_elevenlabs_library_is_told_of_a_full_house(run: Run, serve: Serve) -> None:
    """It tries nothing again of what it streams, and it streams every text."""
    server = served(serve)
    with full_at_first(server):
        told = facts(run("elevenlabs", "elevenlabs_refused.py", server.url, KEY, "2"))
    assert told == {"kind": "ApiError", "status": 503, "code": "system_busy"}

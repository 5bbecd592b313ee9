"""Laws of the entrance: who has a key comes in by every door, who has none is told so in OpenAI's words."""

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from stentor.config import AccessConfig
from stentor.errors import ConfigError
from stentor.server.access import BodyLimit, Entrance, Gate, presented_keys
from stentor.server.app import create_app
from stentor.server.caller import current
from stentor.server.keys import Keyring
from stentor.server.metrics import Metrics
from tests.server.conftest import Front, Running
from tests.server.fakes import INFO, FakePipeline, config, say, voices

Serve = Callable[..., Running]

ALICE = "alice-secret-key"
KEYS = {"api_keys": f"alice:{ALICE}"}
FORMS = [
    {"Authorization": f"Bearer {ALICE}"},
    {"Authorization": f"bearer {ALICE}"},
    {"xi-api-key": ALICE},
    {"api-key": ALICE},
]


def guarded(serve: Serve, **access: Any) -> Running:
    return serve(say(0.1), access={**KEYS, **access})


def test_a_key_is_taken_in_each_clients_form(serve: Serve) -> None:
    server = guarded(serve)
    for headers in FORMS:
        assert server.http.get("/v1/models", headers=headers).status_code == 200
        body = {"input": "Hello."}
        assert server.http.post("/v1/audio/speech", json=body, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {ALICE}"},
        {"api-key": f"Bearer {ALICE}"},
        {"x-api-key": ALICE},
    ],
    ids=str,
)
def test_without_a_right_key_it_is_401_and_nothing_is_said(serve: Serve, headers: dict[str, str]) -> None:
    server = guarded(serve)
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/audio/speech"), ("GET", "/nowhere")):
        response = server.http.request(method, path, headers=headers)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert response.headers["X-Request-Id"]
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert "Bearer KEY" in error["message"]
    assert server.pipeline.requests == []


def test_the_official_client_tells_a_wrong_key_from_a_share_used_up(serve: Serve) -> None:
    server = guarded(serve, key_requests_per_minute=1)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong-secret", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as wrong:
            client.models.list()
        assert wrong.value.code == "invalid_api_key"
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=ALICE, max_retries=0) as client:
        speak = {"model": "stentor-test", "voice": "alloy", "input": "Hello."}
        assert client.audio.speech.create(**speak).content
        with pytest.raises(openai.RateLimitError) as used_up:
            client.audio.speech.create(**speak)
        assert used_up.value.code == "rate_limit_exceeded"
        assert 1 <= int(used_up.value.response.headers["Retry-After"]) <= 60
        assert client.models.list().data  # Only speech is counted.


def test_checks_page_and_what_is_configured_need_no_key(serve: Serve) -> None:
    http = guarded(serve).http
    for path in ("/", "/health", "/ready", "/openapi.json", "/metrics"):
        assert http.get(path).status_code == 200, path
    assert http.get("/v1/audio/voices").status_code == 401
    http = guarded(serve, open_routes="voices, models").http
    assert http.get("/v1/audio/voices").status_code == 200
    assert http.get("/v1/models").status_code == 200
    assert http.get("/metrics").status_code == 401
    assert http.post("/v1/audio/voices").status_code == 401
    assert http.get("/v1/audio/voices/").status_code == 401
    assert http.get("//v1/models").status_code == 401


def test_a_route_that_cannot_be_opened_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="'speech'"):
        create_app(FakePipeline(), INFO, voices(), config({"open_routes": "voices,speech"}))  # type: ignore[arg-type]


# WebSockets


async def echo_key(scope: Scope, receive: Receive, send: Send) -> None:
    """An app with one WebSocket, which says whose key it was opened with."""
    websocket = WebSocket(scope, receive, send)
    protocols = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=protocols[0] if protocols else None)
    await websocket.send_text(current().key.name)
    await websocket.close()


@pytest.fixture
def sockets(front_and_port: tuple[Front, int]) -> str:
    front, port = front_and_port
    gate = Gate(echo_key, Keyring(AccessConfig(**KEYS)), set(), [])
    front.app = Entrance(gate, Metrics(FakePipeline().stats))
    return f"ws://127.0.0.1:{port}/v1/realtime"


@pytest.mark.parametrize(
    "how",
    [
        *({"additional_headers": headers} for headers in FORMS),
        {"subprotocols": ["realtime", f"openai-insecure-api-key.{ALICE}"]},
        {"query": f"?xi-api-key={ALICE}"},
        {"query": f"?model=x&api_key={ALICE}"},
        {"query": f"?authorization=Bearer%20{ALICE}"},
    ],
    ids=str,
)
def test_a_websocket_has_more_ways_to_bring_a_key(sockets: str, how: dict[str, Any]) -> None:
    with connect(sockets + how.pop("query", ""), proxy=None, **how) as websocket:
        assert websocket.recv() == "alice"
        assert websocket.response is not None
        assert websocket.response.headers["X-Request-Id"]


@pytest.mark.parametrize("query", ["", "?api_key=wrong-secret", f"?key={ALICE}"])
def test_a_websocket_without_a_key_fails_in_its_handshake(sockets: str, query: str) -> None:
    with pytest.raises(InvalidStatus) as caught, connect(sockets + query, proxy=None):
        pass
    response = caught.value.response
    assert response.status_code == 401
    assert json.loads(response.body or b"")["error"]["code"] == "invalid_api_key"


def test_a_websocket_where_none_is_gets_404_and_an_error_object(serve: Serve) -> None:
    server = guarded(serve)
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{server.port}/v1/nowhere", additional_headers=FORMS[0])
    response = refused.value.response
    assert response.status_code == 404
    assert response.headers["X-Request-Id"]
    assert b"WEBSOCKET /v1/nowhere does not exist" in (response.body or b"")


def test_a_key_in_the_query_is_for_websockets_only() -> None:
    scope = {"type": "http", "headers": [], "query_string": f"api_key={ALICE}".encode()}
    assert list(presented_keys(scope)) == []


# Pages of other sites


def test_a_page_is_let_in_by_its_origin(serve: Serve) -> None:
    server = guarded(serve, cors_origins="https://tavern.example, https://b.example")
    asking = {
        "Origin": "https://tavern.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    leave = server.http.options("/v1/audio/speech", headers=asking)
    assert leave.status_code == 200  # Without a key: a browser does not send one with the question.
    assert leave.headers["Access-Control-Allow-Origin"] == "https://tavern.example"
    assert "authorization" in leave.headers["Access-Control-Allow-Headers"].lower()
    headers = {"Origin": "https://tavern.example", "Authorization": f"Bearer {ALICE}"}
    answer = server.http.post("/v1/audio/speech", json={"input": "Hello."}, headers=headers)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://tavern.example"
    assert "X-Seed" in answer.headers["Access-Control-Expose-Headers"]
    # A refusal must be readable, too.
    refused = server.http.get("/v1/models", headers={"Origin": "https://tavern.example"})
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == "https://tavern.example"
    other = server.http.options("/v1/audio/speech", headers={**asking, "Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in other.headers


def test_by_default_no_other_site_is_let_in(serve: Serve) -> None:
    response = serve().http.get("/v1/models", headers={"Origin": "https://tavern.example"})
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    ("headers", "access", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, {}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, {}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, {}, 200),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"}, {}, 200),
        ({"Sec-Fetch-Site": "none"}, {}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://a.example"}, {"cors_origins": "*"}, 200),
        (
            {"Sec-Fetch-Site": "cross-site", "Origin": "https://a.example"},
            {"cors_origins": "https://a.example"},
            200,
        ),
        # Over plain http to another machine, a browser names its page's origin and nothing else.
        ({"Origin": "http://evil.example", "Host": "192.168.1.5:8000"}, {}, 403),
        ({"Origin": "null", "Host": "192.168.1.5:8000"}, {}, 403),
        ({"Origin": "http://[", "Host": "192.168.1.5:8000"}, {}, 403),
        ({"Origin": "http://192.168.1.5:8000", "Host": "192.168.1.5:8000"}, {}, 200),
        ({"Origin": "http://box:8080", "Host": "box"}, {}, 200),  # behind nginx's $host
        ({"Origin": "http://a.example", "Host": "box"}, {"cors_origins": "http://a.example"}, 200),
        # A name that a stranger owns may lead here now, and have led to him when the page was loaded.
        ({"Origin": "http://evil.example:8000", "Host": "evil.example:8000"}, {}, 403),
        ({"Origin": "http://evil.example.:8000", "Host": "EVIL.example.:8000"}, {}, 403),
        ({"Origin": "http://a.example", "Host": "a.example"}, {"cors_origins": "http://a.example"}, 200),
        # No stranger has a certificate for this server, nor such a name, nor an address.
        ({"Origin": "https://tts.example", "Host": "tts.example"}, {}, 200),
        ({"Origin": "http://localhost:8000", "Host": "localhost:8000"}, {}, 200),
        ({"Origin": "http://stentor:8000", "Host": "stentor:8000"}, {}, 200),
        ({"Origin": "http://nas.local:8000", "Host": "nas.local:8000"}, {}, 200),
        ({"Origin": "http://host.docker.internal:8000", "Host": "host.docker.internal:8000"}, {}, 200),
        ({"Origin": "http://[::1]:8000", "Host": "[::1]:8000"}, {}, 200),
        ({"Origin": "http://[::ffff:7f00:1]:8000", "Host": "[::ffff:7f00:1]:8000"}, {}, 200),
        ({}, {}, 200),
    ],
    ids=str,
)
def test_a_page_of_another_site_cannot_act_for_its_visitor(
    serve: Serve, headers: dict[str, str], access: dict[str, str], status: int
) -> None:
    server = serve(say(0.1), access=access)
    response = server.http.post("/v1/audio/speech", json={"input": "Hello."}, headers=headers)
    assert response.status_code == status
    assert server.http.get("/v1/models", headers=headers).status_code == 200


def test_whoever_has_a_key_may_come_by_any_name(serve: Serve) -> None:
    headers = {"Origin": "http://tts.example", "Host": "tts.example", **FORMS[0]}
    answer = guarded(serve).http.post("/v1/audio/speech", json={"input": "Hello."}, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(("host", "status"), [("evil.example", 403), ("127.0.0.1", 101), ("stentor", 101)])
def test_a_websocket_is_opened_for_no_page_of_a_strangers_name(
    front_and_port: tuple[Front, int], host: str, status: int
) -> None:
    front, port = front_and_port
    gate = Gate(echo_key, Keyring(AccessConfig()), set(), [])
    front.app = Entrance(gate, Metrics(FakePipeline().stats))
    answered = 101
    with socket.create_connection(("127.0.0.1", port)) as connection:
        try:
            with connect(f"ws://{host}:{port}/", sock=connection, origin=f"http://{host}:{port}"):
                pass
        except InvalidStatus as refused:
            answered = refused.response.status_code
    assert answered == status


# Bodies and logs


def test_a_body_that_stalls_is_408(serve: Serve) -> None:
    server = serve(read_timeout_s=0.2)
    head = "Host: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"POST /v1/audio/speech HTTP/1.1\r\n{head}".encode())
        connection.settimeout(20)
        answer = connection.recv(65_536).decode()
    assert answer.startswith("HTTP/1.1 408")
    assert "did not come in time" in answer


def test_the_pause_counts_within_the_body_only() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["body"] == b"{}"
        # Now it waits for the client to leave, however long that takes.
        assert (await receive())["type"] == "http.disconnect"

    async def run() -> None:
        messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": b"{}"})
        scope = {"type": "http", "headers": []}
        limited = asyncio.ensure_future(BodyLimit(app, 10, 0.01)(scope, messages.get, messages.put))
        await asyncio.sleep(0.1)
        assert not limited.done()
        messages.put_nowait({"type": "http.disconnect"})
        await limited

    asyncio.run(run())


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """The fields of the access log's lines for a path, once there are some."""

    def of(path: str) -> list[dict[str, Any]]:
        deadline_s = time.monotonic() + 5
        while time.monotonic() < deadline_s:
            found = [getattr(record, "fields", {}) for record in caplog.records]
            if mine := [fields for fields in found if fields.get("path") == path]:
                return mine
            time.sleep(0.005)
        return []

    with caplog.at_level(logging.INFO, "stentor"):
        yield of


def test_each_answer_is_in_the_log_with_its_key(serve: Serve, lines: Callable[..., Any]) -> None:
    server = guarded(serve)
    server.http.get("/v1/models?secret=1", headers=FORMS[0])
    (line,) = lines("/v1/models")
    assert (line["method"], line["status"], line["key"]) == ("GET", 200, "alice")
    assert line["seconds"] >= 0
    server.http.get("/v1/refused", headers={"api-key": "wrong-secret"})
    (line,) = lines("/v1/refused")
    assert line["status"] == 401
    assert "key" not in line


def test_neither_keys_nor_texts_are_in_the_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = guarded(serve)
    with caplog.at_level(logging.INFO):
        for text in ("my diary", "my diary <|emotion:diary|>"):
            server.http.post("/v1/audio/speech", json={"input": text, "stream": True}, headers=FORMS[0])
        server.http.get("/v1/models", headers={"api-key": "wrong-secret"})
        server.http.get(f"/v1/models?api_key={ALICE}")
        server.pipeline.wait_until(lambda: sum("speech" in line for line in caplog.messages) >= 2)
    ours = "\n".join(str(vars(r)) for r in caplog.records if r.name.startswith("stentor"))
    for told in ("diary", ALICE, "wrong-secret"):
        assert told not in ours


def test_every_route_but_the_open_ones_asks_for_a_key(serve: Serve) -> None:
    """Whatever is added later is closed, too."""
    app = create_app(FakePipeline(), INFO, voices(), config(KEYS))  # type: ignore[arg-type]
    assert isinstance(app, FastAPI)
    http = guarded(serve).http
    asked = 0
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            response: httpx2.Response = http.request(method.upper(), path.replace("{", "").replace("}", ""))
            is_open = path in ("/health", "/ready", "/metrics")
            assert (response.status_code != 401) is is_open, (method, path)
            asked += not is_open
    assert asked >= 4

"""What holds for every WebSocket, tried on one that says back what it is told."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from stentor.errors import RequestError, StentorError
from stentor.server.conversation import Conversation, HangUpError, Limits
from tests.server.conftest import Front

LIMITS = Limits(idle_timeout_s=30, write_timeout_s=5, max_message_bytes=1000, max_pending_chars=100)


class Echo(Conversation):
    """Says back; "later" says it from beside, "break" and "break beside" have a defect."""

    ended: ClassVar[list[str]] = []

    async def greet(self) -> None:
        await self.send({"hello": self.id})

    async def handle(self, event: dict[str, Any]) -> None:
        match event.get("say"):
            case "bye":
                raise HangUpError
            case "no":
                raise RequestError("no", code="refused")
            case "break":
                raise ZeroDivisionError
            case "break beside":
                self.beside(self._break_beside())
            case "later":
                self.beside(self._later())
            case said:
                await self.send({"said": said})

    async def refuse(self, error: StentorError, event: Mapping[str, Any]) -> None:
        await self.send({"refused": error.message, "event": dict(event)})

    async def _break_beside(self) -> None:
        raise ZeroDivisionError

    async def _later(self) -> None:
        try:
            await self.send({"said": "at once"})
            await asyncio.sleep(60)
        finally:
            self.ended.append(self.id)


@pytest.fixture
def client(front_and_port: tuple[Front, int]) -> Callable[[], ClientConnection]:
    front, port = front_and_port

    async def talk(websocket: WebSocket) -> None:
        await Echo(websocket, LIMITS).run()

    front.app = Starlette(routes=[WebSocketRoute("/", talk)])
    return lambda: connect(f"ws://127.0.0.1:{port}/", proxy=None)


def heard(socket: ClientConnection) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(socket.recv(timeout=20))
    return answer


def close_code(socket: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=20)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def test_it_greets_answers_refuses_and_hangs_up(client: Callable[[], ClientConnection]) -> None:
    with client() as socket:
        assert len(heard(socket)["hello"]) == 32
        socket.send('{"say": "A"}')
        assert heard(socket) == {"said": "A"}
        socket.send(b'{"say": "bytes"}')
        assert heard(socket) == {"said": "bytes"}
        socket.send('{"say": "no"}')
        assert heard(socket) == {"refused": "no", "event": {"say": "no"}}
        socket.send(b"\xff")
        assert "not valid JSON" in heard(socket)["refused"]
        socket.send("")
        assert "not valid JSON" in heard(socket)["refused"]
        socket.send('{"say": "bye"}')
        assert close_code(socket) == 1000


def test_it_listens_while_it_works_and_ends_the_work_with_itself(
    client: Callable[[], ClientConnection],
) -> None:
    with client() as socket:
        name = heard(socket)["hello"]
        socket.send('{"say": "later"}')
        assert heard(socket) == {"said": "at once"}
        socket.send('{"say": "B"}')
        assert heard(socket) == {"said": "B"}
        socket.send('{"say": "bye"}')
        assert close_code(socket) == 1000
    assert name in Echo.ended


@pytest.mark.parametrize("defect", ["break", "break beside"])
def test_a_defect_is_told_and_logged(
    client: Callable[[], ClientConnection], caplog: pytest.LogCaptureFixture, defect: str
) -> None:
    with client() as socket:
        name = heard(socket)["hello"]
        socket.send(json.dumps({"say": defect}))
        assert "something in the server broke" in heard(socket)["refused"]
        assert close_code(socket) == 1011
    assert name in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_message_that_is_too_large_ends_it(client: Callable[[], ClientConnection]) -> None:
    with client() as socket:
        heard(socket)
        socket.send(json.dumps({"say": "A" * 1000}))
        assert "1000 bytes" in heard(socket)["refused"]
        assert close_code(socket) == 1009


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        (["realtime", "openai-insecure-api-key.KEY"], "realtime"),
        (["openai-insecure-api-key.KEY", "realtime"], "realtime"),
        (["openai-insecure-api-key.KEY"], "openai-insecure-api-key.KEY"),
    ],
)
def test_who_offers_subprotocols_gets_one_as_browsers_want(
    front_and_port: tuple[Front, int],
    client: Callable[[], ClientConnection],
    offered: list[Any],
    answered: str,
) -> None:
    with client():
        pass  # It serves the app.
    with connect(f"ws://127.0.0.1:{front_and_port[1]}/", subprotocols=offered, proxy=None) as socket:
        assert socket.subprotocol == answered

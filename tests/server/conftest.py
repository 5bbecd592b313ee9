"""A real server on a free loopback port in front of a fake pipeline."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import uvicorn
from openai import OpenAI
from starlette.types import ASGIApp, Receive, Scope, Send

from stentor.request import ModelInfo
from stentor.server.app import create_app
from tests.server.fakes import INFO, FakePipeline, config, voices


class Front:
    """The one app that uvicorn runs; behind it each test puts its own."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@dataclass
class Running:
    """A server that runs, its pipeline, and clients of it; `opened` closes them."""

    pipeline: FakePipeline
    port: int
    http: httpx2.Client
    opened: ExitStack

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def speech(self, **body: Any) -> httpx2.Response:
        return self.http.post("/v1/audio/speech", json={"input": "Hello there.", **body})

    def openai(self) -> OpenAI:
        client = OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0)
        return self.opened.enter_context(client)

    def metric(self, name: str) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + " ")), 0.0)


@pytest.fixture(scope="session")
def front_and_port() -> Iterator[tuple[Front, int]]:
    front = Front()
    server = uvicorn.Server(
        uvicorn.Config(front, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Little fits into the system's buffers, so that a reader who does not read is soon felt.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        yield front, listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture
def serve(front_and_port: tuple[Front, int]) -> Iterator[Callable[..., Running]]:
    """Serve a fake: `serve(script, max_requests=…, **server_settings)`; a second call replaces the first."""
    front, port = front_and_port
    with ExitStack() as opened:
        client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False)
        http = opened.enter_context(client)

        def start(
            script: Any = None, *, max_requests: int = 64, info: ModelInfo = INFO, **settings: Any
        ) -> Running:
            pipeline = FakePipeline(script, max_requests)
            front.app = create_app(pipeline, info, voices(), config(**settings))  # type: ignore[arg-type]
            return Running(pipeline, port, http, opened)

        yield start

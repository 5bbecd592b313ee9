"""Knows how the HTTP front door is put together around a pipeline that somebody else runs."""

import os
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stentor.config import Config
from stentor.metrics import Metrics
from stentor.request import ModelInfo
from stentor.server import errors, health, page, speech, voices
from stentor.server.protocol import FIELDS, Reader
from stentor.voices import VoiceStore

if TYPE_CHECKING:
    from stentor.pipeline.pipeline import Pipeline

# Beside a reference in base64: text, codes and the JSON around them.
_BODY_MARGIN_BYTES = 2**20


def create_app(pipeline: "Pipeline", info: ModelInfo, store: VoiceStore, config: Config) -> FastAPI:
    """The HTTP API of one served model; `pipeline` is started and closed by the caller."""
    metrics = Metrics(pipeline.stats)
    reader = Reader(info, store, config)
    encoders = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="encode")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        encoders.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="Stentor",
        summary="Text in, streamed speech out.",
        lifespan=lifespan,
        # Their pages load scripts from elsewhere; /openapi.json is there for any viewer.
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, max_bytes=config.reference.max_bytes * 4 // 3 + _BODY_MARGIN_BYTES)
    app.add_middleware(RequestId, metrics=metrics)
    errors.install(app, FIELDS)
    service = speech.Service(
        pipeline, reader, metrics, encoders, info.sample_rate_hz, config.server.write_timeout_s
    )
    app.include_router(speech.router(service))
    app.include_router(voices.router(store))
    app.include_router(health.router(pipeline, info, reader, metrics))
    app.include_router(page.router())
    return app


class BodyLimit:
    """Refuses a body of more than `max_bytes`, before it comes if its length is announced."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        announced = Headers(scope=scope).get("Content-Length", "") if scope["type"] == "http" else ""
        if announced.isdecimal() and float(announced) > self._max_bytes:
            refusal = errors.http_error_response(Request(scope), HTTPException(413))
            return await refusal(scope, receive, send)
        received = 0

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413)
            return message

        return await self._app(scope, count, send)


class RequestId:
    """Gives each request an id (`request.state.request_id`, `X-Request-Id`), and counts the answers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
                self._metrics.responses.labels(str(message["status"])).inc()
            await send(message)

        return await self._app(scope, receive, tell)

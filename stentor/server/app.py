"""Knows how the HTTP front door is put together around a pipeline that somebody else runs."""

import os
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.websockets import WebSocket

from stentor.config import Config
from stentor.errors import ConfigError
from stentor.request import ModelInfo
from stentor.server import admin, consents, errors, health, page, speech, voices
from stentor.server.access import BodyLimit, Entrance, Gate, open_paths, origins_of
from stentor.server.admission import Admission
from stentor.server.batch import BatchBody
from stentor.server.bodies import FIELDS
from stentor.server.conversation import Conversation, Limits
from stentor.server.document import install_document
from stentor.server.elevenlabs import routes as elevenlabs_routes
from stentor.server.elevenlabs.errors import Translation
from stentor.server.elevenlabs.socket import InputSocket, MultiInputSocket
from stentor.server.generate import GenerateBody
from stentor.server.keys import Keyring
from stentor.server.metrics import Metrics
from stentor.server.outcomes import Outcomes
from stentor.server.protocol import Reader
from stentor.server.realtime import Session
from stentor.server.speech_socket import SpeechSocket
from stentor.server.tracing import make_tracer
from stentor.server.utterance import Service
from stentor.server.wyoming.server import Door, serving
from stentor.voices import VoiceStore

if TYPE_CHECKING:
    from stentor.pipeline.pipeline import Pipeline

_SOCKETS: dict[str, Callable[[WebSocket, Service, Limits], Conversation]] = {
    "/v1/audio/speech/stream": SpeechSocket,
    "/v1/realtime": Session,
    "/v1/text-to-speech/{voice_id}/stream-input": InputSocket,
    "/v1/text-to-speech/{voice_id}/multi-stream-input": MultiInputSocket,
}
# Beside a reference in base64: text, codes and the JSON around them.
_BODY_MARGIN_BYTES = 2**20
# What a browser may read of an answer, beside the usual.
_EXPOSED_HEADERS = (
    "X-Request-Id",
    "X-Sample-Rate",
    "X-Seed",
    "X-Finish-Reason",
    "X-Prompt-Tokens",
    "X-Completion-Tokens",
    "X-Stentor-Warning",
    "Retry-After",
)


def max_body_bytes(config: Config) -> int:
    """The largest body of a request, and message of a WebSocket: the largest reference, in base64."""
    return config.reference.max_bytes * 4 // 3 + _BODY_MARGIN_BYTES


def create_app(
    pipeline: "Pipeline",
    info: ModelInfo,
    store: VoiceStore,
    config: Config,
    wyoming: socket.socket | None = None,
) -> FastAPI:
    """The HTTP API of one served model; `pipeline` is started and closed by the caller.

    `wyoming` is a bound socket on which that protocol is spoken beside it, while the app's lifespan lasts.
    `app.state.admission` is the door to the pipeline that every route goes through.
    """
    metrics = Metrics(pipeline.stats)
    pipeline.when_passed(metrics.passed)
    tracer = make_tracer() if config.server.tracing else None
    if tracer is not None:
        pipeline.when_passed(tracer.passed)
    admission = Admission(pipeline)
    reader = Reader(info, store, config)
    encoders = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="encode")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with _beside(wyoming, Door(service, store, limits_of(config), config.server.languages)):
            yield
        encoders.shutdown(wait=False, cancel_futures=True)
        if tracer is not None:
            tracer.close()

    app = FastAPI(
        title="Stentor",
        summary="Text in, streamed speech out.",
        lifespan=lifespan,
        # Their pages load scripts from elsewhere; /openapi.json is there for any viewer.
        docs_url=None,
        redoc_url=None,
    )
    app.state.admission = admission
    keyring = Keyring(config.access)
    _add_layers(app, metrics, keyring, config)
    errors.install(app, {"": (*FIELDS, *BatchBody.model_fields), "/generate": (*GenerateBody.model_fields,)})
    install_document(app)
    outcomes = Outcomes(config.server.outcome_age_s)
    service = Service(
        admission, reader, metrics, outcomes, encoders, info, config.server.write_timeout_s, tracer
    )
    _add_routes(app, service, info, store, config)
    if config.access.admin:
        if not keyring.has_admin:
            raise ConfigError("--admin needs a key with `admin = true` in --api-keys-file")
        app.include_router(admin.router(admission))
    return app


def limits_of(config: Config) -> Limits:
    """What a client may do in a conversation."""
    return Limits(
        idle_timeout_s=config.server.socket_idle_timeout_s,
        write_timeout_s=config.server.write_timeout_s,
        max_message_bytes=max_body_bytes(config),
        max_pending_chars=config.server.socket_pending_chars,
    )


def _beside(listener: socket.socket | None, door: Door) -> AbstractAsyncContextManager[object]:
    return nullcontext() if listener is None else serving(door, listener)


def _add_routes(app: FastAPI, service: Service, info: ModelInfo, store: VoiceStore, config: Config) -> None:
    """Every door, but the operator's."""
    app.include_router(speech.router(service, config.server.max_batch_items))
    kept = consents.Consents(store.folder, config.reference)
    app.include_router(voices.router(service, store, kept))
    app.include_router(consents.router(kept))
    app.include_router(elevenlabs_routes.router(service, store))
    limits = limits_of(config)
    for path, kind in _SOCKETS.items():
        app.add_api_websocket_route(path, partial(_talk, kind, service, limits))
    reader, server = service.reader, config.server
    theirs = elevenlabs_routes.models(reader.served_name, server.languages, server.max_input_chars)
    app.include_router(health.router(service.pipeline, info, reader, service.metrics, store, theirs))
    app.include_router(page.router())


async def _talk(
    kind: Callable[..., Conversation], service: Service, limits: Limits, websocket: WebSocket
) -> None:
    await kind(websocket, service, limits).run()


def _add_layers(app: FastAPI, metrics: Metrics, keyring: Keyring, config: Config) -> None:
    """What every request passes before its route; the last one added is the first one passed."""
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes(config), pause_s=config.server.read_timeout_s)
    access, origins = config.access, origins_of(config.access)
    app.add_middleware(Gate, keyring=keyring, open=open_paths(access), origins=origins)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED_HEADERS,
        )
    app.add_middleware(Entrance, metrics=metrics)
    app.add_middleware(Translation)

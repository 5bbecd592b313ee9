"""Knows what the server says about itself: whether it is ready, which model it serves, and its figures."""

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse, Response

from stentor.request import ModelInfo
from stentor.server.admission import Admission
from stentor.server.document import answers
from stentor.server.metrics import CONTENT_TYPE, Metrics
from stentor.server.protocol import Reader
from stentor.voices import VoiceStore

_DEAD = answers(["text/plain"], 503, "It is beyond repair.")
_NOT_NOW = answers(["application/json"], 503, "Not now.")


def router(
    admission: Admission,
    info: ModelInfo,
    reader: Reader,
    metrics: Metrics,
    store: VoiceStore,
    elevenlabs_models: list[dict[str, Any]],
) -> APIRouter:
    """The routes of health, models and metrics."""
    routes = APIRouter()
    model = _describe(info, reader.served_name)

    # The bare word is what other servers say, and some clients look for.
    @routes.get("/health", response_class=PlainTextResponse, responses=_DEAD, summary="Does the server live.")
    async def health() -> Response:
        return PlainTextResponse("OK") if admission.alive() else PlainTextResponse("BROKEN", 503)

    @routes.get("/ready", responses=_NOT_NOW, summary="Would a request be served now; not while draining.")
    async def ready() -> Response:
        if admission.ready():
            return JSONResponse({"status": "ready"})
        status = "draining" if admission.draining else "not ready"
        return JSONResponse({"status": status}, 503, {"Retry-After": "1"})

    @routes.get("/metrics", response_class=PlainTextResponse, summary="Figures in Prometheus's text format.")
    async def figures() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    @routes.get("/v1/models", summary="The served model, in a list.")
    async def models(request: Request) -> Any:
        # Where OpenAI's and ElevenLabs' clients ask for the same path, they show their key in different ways.
        if "xi-api-key" in request.headers:
            return elevenlabs_models
        return {"object": "list", "data": [model]}

    # A hub id has a slash in it.
    @routes.get("/v1/models/{name:path}", summary="The served model, with its voices.")
    async def one_model(name: str) -> dict[str, Any]:
        reader.check_model(name)
        # As Speaches lists them, where some clients look.
        known = await run_in_threadpool(store.all)
        return {**model, "voices": [{"name": voice.name, "language": voice.language} for voice in known]}

    return routes


def _describe(info: ModelInfo, served_name: str) -> dict[str, Any]:
    return {
        "id": served_name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "stentor",
        "sample_rate": info.sample_rate_hz,
        "max_context": info.context_limit,
        "control_tags": list(info.control_tags),
    }

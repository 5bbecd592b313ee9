"""Knows what the server says about itself: whether it is ready, which model it serves, and its figures."""

import time
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from stentor.metrics import CONTENT_TYPE, Metrics
from stentor.request import ModelInfo
from stentor.server.protocol import Reader

if TYPE_CHECKING:
    from stentor.pipeline.pipeline import Pipeline


def router(pipeline: "Pipeline", info: ModelInfo, reader: Reader, metrics: Metrics) -> APIRouter:
    """The routes of health, models and metrics."""
    routes = APIRouter()
    model = _describe(info, reader.served_name)

    @routes.get("/health", summary="200 if a request would be served now, 503 if not.")
    async def health() -> Response:
        if pipeline.ready():
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503, {"Retry-After": "1"})

    @routes.get("/metrics", response_class=Response, summary="Figures in Prometheus's text format.")
    async def figures() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    @routes.get("/v1/models", summary="The served model, in a list.")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    # A hub id has a slash in it.
    @routes.get("/v1/models/{name:path}", summary="The served model.")
    async def one_model(name: str) -> dict[str, Any]:
        reader.check_model(name)
        return model

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

"""Knows the routes of speech: a text, many texts, and how a request ended."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from stentor.errors import NotFoundError
from stentor.server.answer import SpeechAnswer
from stentor.server.batch import BatchAnswer, BatchBody
from stentor.server.bodies import SpeechBody
from stentor.server.caller import current
from stentor.server.document import SPEECH, answers
from stentor.server.errors import REQUEST_NOT_FOUND
from stentor.server.generate import GenerateBody
from stentor.server.utterance import Service

# OpenAI's libraries say by this header, and by nothing else, that their user reads the bytes as they come:
# the voice frameworks that are built on them leave `stream_format` to the server.
_READS_AS_IT_COMES = "X-Stainless-Raw-Response"


def router(service: Service, most_items: int) -> APIRouter:
    """The routes of speech; a batch may have `most_items`."""
    routes = APIRouter()

    @routes.post(
        "/v1/audio/speech", response_class=Response, responses=answers(SPEECH), summary="Say a text."
    )
    async def speak(body: SpeechBody, request: Request) -> Response:
        untold = body.stream is None and body.stream_format is None
        if untold and request.headers.get(_READS_AS_IT_COMES) == "stream":
            body = body.model_copy(update={"stream_format": "audio"})
        return SpeechAnswer(service, service.reader.read(body, request.state.request_id))

    @routes.post(
        "/generate", response_class=Response, responses=answers(["audio/wav"]), summary="Say a text, in WAV."
    )
    async def generate(body: GenerateBody, request: Request) -> Response:
        return SpeechAnswer(service, body.read(service.reader, request.state.request_id))

    @routes.post("/v1/audio/speech/batch", summary="Say many texts.")
    async def speak_all(body: BatchBody, request: Request) -> Response:
        return BatchAnswer(service, body, request.state.request_id, most_items)

    @routes.get("/v1/audio/speech/{request_id}", summary="How a request of the last minutes ended.")
    async def outcome(request_id: str) -> dict[str, Any]:
        known = service.outcomes.get(current().key.name, request_id)
        if known is None:
            raise NotFoundError(
                f"nothing is known of request {request_id[:100]!r}: it never was, or too long ago",
                param="request_id",
                code=REQUEST_NOT_FOUND,
            )
        return known

    return routes

"""Knows what `/openapi.json` says of answers: audio by its media types, one error object for what fails."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI

from stentor.audio.formats import FORMATS

SPEECH = (*sorted({format.content_type for format in FORMATS.values()}), "text/event-stream")

_TEXT = {"type": "string"}
_MAYBE_TEXT = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {**_TEXT, "description": "What is wrong, and how to mend it."},
                "type": {**_TEXT, "description": "invalid_request_error, rate_limit_error or server_error."},
                "param": {**_MAYBE_TEXT, "description": "The field that is wrong."},
                "code": {**_MAYBE_TEXT, "description": "A word for programs."},
            },
        },
        "detail": {"type": "object", "description": "The same in ElevenLabs' words, for its clients."},
    },
}
_FAILURE = {
    "description": "400, 401, 403, 404, 405, 408, 413, 429, 500 or 503; the latter and 429 with Retry-After.",
    "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}},
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
# FastAPI's own, which are told in our shape and as 400.
_UNTRUE = ("HTTPValidationError", "ValidationError")


def answers(
    media_types: Iterable[str], status: int = 200, about: str = "It is done."
) -> dict[int | str, Any]:
    """For a route's `responses`: what it sends where FastAPI cannot know it."""
    return {status: {"description": about, "content": {media_type: {} for media_type in media_types}}}


def install(app: FastAPI) -> None:
    """Have the app's document say how things fail."""
    make = app.openapi

    def describe() -> dict[str, Any]:
        known = app.openapi_schema
        return make() if known else _with_failures(make())

    app.openapi = describe  # type: ignore[method-assign]


def _with_failures(document: dict[str, Any]) -> dict[str, Any]:
    components = document["components"]
    for name in _UNTRUE:
        components["schemas"].pop(name, None)
    components["schemas"]["Error"] = _ERROR
    components["responses"] = {"Failure": _FAILURE}
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"$ref": "#/components/responses/Failure"}
    return document

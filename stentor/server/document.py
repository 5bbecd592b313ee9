"""Knows what `/openapi.json` says of answers: audio by its media types, one error object for what fails."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI

from stentor.audio.formats import FORMATS

SPEECH = (*sorted({format.content_type for format in FORMATS.values()}), "text/event-stream")

_FIELDS = {
    "message": "What is wrong, and how to mend it.",
    "type": "invalid_request_error, rate_limit_error or server_error.",
    "param": "The field that is wrong.",
    "code": "A word for programs.",
}
_SAID = {name: {"type": ["string", "null"], "description": about} for name, about in _FIELDS.items()}
_OBJECT = {"type": "object", "required": list(_FIELDS), "properties": _SAID}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": _OBJECT}}
_FAILURE = {
    "description": "400, 401, 403, 404, 405, 408, 413, 429, 500 or 503; 429 and 503 have Retry-After.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
# FastAPI's own, which are told in our shape and as 400.
_UNTRUE = ("HTTPValidationError", "ValidationError")


def answers(media_types: Iterable[str], status: int = 200, about: str = "Done.") -> dict[int | str, Any]:
    """For a route's `responses`: what it sends where FastAPI cannot know it."""
    return {status: {"description": about, "content": {media_type: {} for media_type in media_types}}}


def install_document(app: FastAPI) -> None:
    """Have the app's document say how things fail."""
    make = app.openapi
    app.openapi = lambda: make() if app.openapi_schema else _completed(make())  # type: ignore[method-assign]


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    for name in _UNTRUE:
        schemas.pop(name, None)
    schemas["Error"] = _ERROR
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        operation["responses"].pop("422", None)
        operation["responses"]["default"] = _FAILURE
    return document

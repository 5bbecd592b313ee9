"""Knows how an error is told over HTTP: its status, and OpenAI's error object."""

import json
import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from stentor.errors import (
    AbortedError,
    AuthenticationError,
    ForbiddenError,
    NotFoundError,
    OverloadedError,
    RateLimitedError,
    RequestError,
    StentorError,
    TooLargeError,
)
from stentor.server.bodies import FOREIGN_FIELDS, ReferenceBody

MODEL_NOT_FOUND = "model_not_found"
REQUEST_NOT_FOUND = "request_not_found"
BROKEN = "something in the server broke; its log says what, under this request's id"

_STATUS: list[tuple[type[StentorError], int]] = [
    (ForbiddenError, 403),
    (TooLargeError, 413),
    (RequestError, 400),
    (AuthenticationError, 401),
    (RateLimitedError, 429),
    (OverloadedError, 503),
    # Whoever still reads this did not abort it: the server is going down.
    (AbortedError, 503),
]

# What other servers call a field whose name here is not like it, or less like it than another's.
_MEANT = {
    **dict.fromkeys(("text", "prompt"), "input"),
    **dict.fromkeys(("system_prompt", "style"), "instructions"),
    **dict.fromkeys(("format", "output_format", "audio_format"), "response_format"),
    **dict.fromkeys(("reference_audio_base64", "speaker_wav", "audio_url"), "ref_audio"),
    **dict.fromkeys(("rate", "speech_rate"), "speed"),
}

# Where other servers turn speech into text.
_LISTENING = {f"/v1/audio/{what}" for what in ("transcriptions", "translations", "diarizations")}

M = TypeVar("M", bound=BaseModel)


def status_of(error: StentorError) -> int:
    """The HTTP status for an error; everything that a body names wrongly is 400, but for its model."""
    if isinstance(error, NotFoundError):
        # What the address names is no parameter.
        known = error.code in (MODEL_NOT_FOUND, REQUEST_NOT_FOUND)
        return 404 if known or error.param is None else 400
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def error_object(error: StentorError) -> dict[str, Any]:
    """OpenAI's error object, `{"error": {message, type, param, code}}`."""
    kind = "server_error"
    if isinstance(error, RequestError | AuthenticationError):
        kind = "invalid_request_error"
    elif isinstance(error, RateLimitedError):
        kind = "rate_limit_error"
    return _object(error.message, kind, error.param, error.code)


def error_response(error: StentorError) -> Response:
    """The whole answer, with Retry-After where trying again is the way to mend it."""
    headers = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, AuthenticationError):
        headers["WWW-Authenticate"] = "Bearer"
    return _respond(status_of(error), error_object(error), headers)


def install(app: FastAPI, fields: Mapping[str, Sequence[str]]) -> None:
    """Make every error of a route an error object; `fields` are the known ones of a body by its path, those
    of "" on any other.
    """

    async def tell(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return http_error_response(request, error)
        if isinstance(error, RequestValidationError):
            problems = [{**problem, "loc": problem["loc"][1:]} for problem in error.errors()]
            error = explain(problems, fields.get(request.scope["path"], fields[""]))
        assert isinstance(error, StentorError), "registered for these only"
        return error_response(error)

    async def nowhere(*_: object) -> None:
        raise HTTPException(404)

    # Starlette's own would refuse a WebSocket with 403, as if a key were missing.
    app.router.default = nowhere
    for kind in (StentorError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, tell)


def explain(
    problems: Sequence[Any], fields: Sequence[str], within: tuple[str | int, ...] = ()
) -> RequestError:
    """Pydantic's findings about a body in words that say how to mend it.

    `fields` are those that it may have, `within` is its place in the whole message.
    """
    # A field under another name is missing as well: to hear that alone would be a riddle.
    unknown = [each for each in problems if each["type"] == "extra_forbidden"]
    problem = unknown[0] if unknown and problems[0]["type"] == "missing" else problems[0]
    place, kind = (*within, *problem["loc"]), problem["type"]
    # Beyond the fields, pydantic names the types that it tried.
    known = {*within, *fields, *ReferenceBody.model_fields}
    param = _spell([step for step in place if isinstance(step, int) or step in known] or place[:1])
    if kind == "json_invalid":
        return RequestError(f"the body is not valid JSON: {problem['ctx']['error']}")
    if kind == "value_error":
        return RequestError(str(problem["ctx"]["error"]), param=param or None)
    if not place:
        return RequestError('the body must be a JSON object, sent with "Content-Type: application/json"')
    if kind == "extra_forbidden":
        name = str(place[-1])[:100]
        if name in FOREIGN_FIELDS:
            message = f"{name} is not for this model: leave it out"
            return RequestError(message, param=_spell(place), code="not_for_this_model")
        choice = tuple(ReferenceBody.model_fields) if "references" in place[:-1] else fields
        near = [meant for meant in (_MEANT.get(name),) if meant in choice] or get_close_matches(
            name, choice, n=1
        )
        hint = f"did you mean {near[0]!r}?" if near else f"the known ones are {', '.join(choice)}"
        return RequestError(f"unknown field {name!r}: {hint}", param=_spell(place), code="unknown_field")
    if kind == "missing":
        return RequestError(f"{param} is missing", param=param)
    return RequestError(f"{param}: {problem['msg'][0].lower()}{problem['msg'][1:]}", param=param)


def validated(kind: type[M], value: Any, fields: Sequence[str], place: tuple[str | int, ...] = ()) -> M:
    """What stands at `place` of a message, `fields` being the known ones. Raises RequestError."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise explain(error.errors(), fields, place) from None


def _spell(steps: Sequence[str | int]) -> str:
    """A place in a body as it is written: references[0].text."""
    spelt = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return spelt.removeprefix(".")


def http_error_response(request: Request, error: HTTPException) -> Response:
    """The answer where HTTP itself is the matter: no such path, method or body."""
    path = f"{request.scope.get('method', 'WEBSOCKET')} {request.url.path[:200]}"
    heard = request.url.path in _LISTENING
    message = {
        404: f"{path} does not exist: this server speaks, it does not listen"
        if heard
        else f"{path} does not exist; GET /openapi.json lists what does",
        405: f"{path} is not allowed; use another method",
        408: "the body did not come in time: send it without a pause",
        413: "the body is too large: send a shorter reference, or its URL",
        400: "the body cannot be read as JSON",
    }.get(error.status_code, str(error.detail))
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    # The rest of a body that nobody wants is not waited for.
    unread = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT)
    closing = {"Connection": "close"} if error.status_code in unread else {}
    return _respond(
        error.status_code, _object(message, kind, None, None), {**(error.headers or {}), **closing}
    )


def _object(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _respond(status: int, body: dict[str, Any], headers: dict[str, str]) -> Response:
    # As ASCII: a message may quote half a surrogate pair, which has no bytes in UTF-8.
    return Response(json.dumps(body).encode(), status, headers, "application/json")

"""Knows ElevenLabs' way to tell an error: `{"detail": {status, message}}`, beside OpenAI's object.

https://elevenlabs.io/docs/developers/resources/error-messages
"""

import json
from http import HTTPStatus
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stentor.errors import StentorError
from stentor.server.errors import status_of

_PATHS = ("/v1/text-to-speech/", "/v1/voices", "/v2/voices")
_KEY_HEADER = b"xi-api-key"
# Its words for some statuses; those of the last three are said whatever else is known.
_WORDS = {400: "invalid_request", 413: "max_character_limit_exceeded", 429: "system_busy", 503: "system_busy"}


class Translation:
    """The layer that all answers to ElevenLabs' clients pass: those on its paths, or with its header.

    It stands outside of all others, so that no error has another shape, wherever it came from.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not _is_theirs(scope):
            return await self._app(scope, receive, send)
        begun: Message | None = None
        body = b""

        async def translate(message: Message) -> None:
            nonlocal begun, body
            if message["type"].endswith("http.response.start") and message["status"] >= 400:
                begun = message
            elif begun is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    body = _translated(begun, body)
                    await send(begun)
                    await send({**message, "body": body})

        return await self._app(scope, receive, translate)


def status_name(error: StentorError) -> str:
    """ElevenLabs' word for an error."""
    return _word(status_of(error), error.code)


def _is_theirs(scope: Scope) -> bool:
    named = any(name == _KEY_HEADER for name, _ in scope["headers"])
    return named or scope["path"].startswith(_PATHS)


def _translated(start: Message, body: bytes) -> bytes:
    """The body with the detail in it; `start` gets its length."""
    try:
        told = json.loads(body)
        error: dict[str, Any] = told["error"]
        word = _word(start["status"], error["code"])
        detail = {"status": word, "message": error["message"], "param": error["param"]}
    except (ValueError, LookupError, TypeError):
        return body  # None of our errors.
    body = json.dumps({"detail": detail, **told}).encode()
    MutableHeaders(scope=start)["Content-Length"] = str(len(body))
    return body


def _word(status: int, code: str | None) -> str:
    usual = _WORDS.get(status) or HTTPStatus(status).name.lower()
    return code if code is not None and (status == 400 or status not in _WORDS) else usual

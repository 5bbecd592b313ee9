"""Knows who comes in: gives each connection its id, asks for its key, and writes down how it was answered."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

from fastapi import HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from stentor import logs
from stentor.config import AccessConfig
from stentor.errors import AuthenticationError, ConfigError, ForbiddenError, InternalError, StentorError
from stentor.server import errors
from stentor.server.caller import Caller, current, enter
from stentor.server.keys import Keyring
from stentor.server.metrics import Metrics

# What a load balancer, a browser and a reader of the API need before they have a key.
_ALWAYS_OPEN = {"/", "/health", "/ready", "/openapi.json"}
_OPEN_ON_REQUEST = {"metrics": "/metrics", "voices": "/v1/audio/voices", "models": "/v1/models"}
_TRACE_HEADERS = ("traceparent", "tracestate")
# Of OpenAI's Realtime API, where a browser cannot set a header.
KEY_PROTOCOL = "openai-insecure-api-key."
_KEY_PARAMETERS = ("api_key", "api-key", "xi_api_key", "xi-api-key", "authorization")
_SWITCHING = 101
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
# Last parts of names that nobody can register: of one network or machine (RFC 6761, 6762, 8375).
_PRIVATE_NAMES = {"arpa", "corp", "home", "internal", "lan", "local", "localhost", "test"}
# Nothing that could forge a line of a log, or fill it.
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\sA-Z]+")

log = logging.getLogger(__name__)


def split(text: str) -> list[str]:
    """The items of a setting that is a list with commas."""
    return [item for item in map(str.strip, text.split(",")) if item]


class Entrance:
    """The outer layer: an id for each request and WebSocket (`X-Request-Id`), a count, a log line, and an
    answer even where something broke.

    A client's own `X-Request-Id` is taken, if it is short and plain.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        own = headers.get("X-Request-Id", "")
        request_id = own if _SANE_ID.fullmatch(own) else uuid.uuid4().hex
        trace = {name: headers[name] for name in _TRACE_HEADERS if name in headers}
        scope.setdefault("state", {})["request_id"] = request_id
        logs.REQUEST_ID.set(request_id)
        caller = Caller(request_id, trace=trace)
        enter(caller)
        status = 0
        began_s = time.monotonic()

        async def tell(message: Message) -> None:
            nonlocal status
            kind = message["type"]
            if kind == "websocket.accept":
                status = _SWITCHING
                self._metrics.websockets.inc()
            if kind in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                status = message.get("status", status)
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
                self._metrics.responses.labels(str(status)).inc()
            await send(message)

        # Asked for its head, a route answers as to GET (RFC 9110, 9.3.2); uvicorn leaves the body out.
        asked = {**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope
        try:
            await self._app(asked, receive, tell)
        except Exception:
            # The traceback is logged by whoever runs the app: the exception goes on to it.
            log.error("request %s: unexpected error", request_id)
            if scope["type"] == "http" and not status:
                await errors.error_response(InternalError(errors.BROKEN))(scope, receive, tell)
            raise
        finally:
            if scope["type"] == "websocket" and status == _SWITCHING:
                self._metrics.websockets.dec()
            self._note(scope, caller, status, time.monotonic() - began_s)

    def _note(self, scope: Scope, caller: Caller, status: int, seconds: float) -> None:
        """The line of the access log; checks and scrapes are for debugging only."""
        method, path = scope.get("method", "WEBSOCKET"), scope["path"]
        quiet = path in _ALWAYS_OPEN or path == _OPEN_ON_REQUEST["metrics"]
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %s in %.3f s%s",
            method,
            path,
            status or "-",
            seconds,
            f" for {caller.key.name}" if caller.key.name else "",
            extra=logs.fields(
                method=method,
                path=path,
                status=status or None,
                seconds=round(seconds, 4),
                key=caller.key.name or None,
            ),
        )


class Gate:
    """Asks for a key, where there are any, and keeps pages of other sites from acting for their visitors."""

    def __init__(self, app: ASGIApp, keyring: Keyring, open: set[str], origins: list[str]) -> None:
        self._app = app
        self._keyring = keyring
        self._origins = origins
        self._open = _ALWAYS_OPEN | open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        try:
            self._check(scope)
        except StentorError as error:
            return await refuse(error, scope, receive, send)
        return await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        method = scope.get("method")
        # A form or a WebSocket would not ask for leave as CORS does.
        keyless = not self._keyring.required
        foreign = method not in _SAFE_METHODS and _of_another_site(headers, keyless)
        if foreign and "*" not in self._origins and headers.get("Origin") not in self._origins:
            raise ForbiddenError(
                "a page of another site, or of a public name with neither https nor keys, may not do this: "
                "name its origin in --cors-origins"
            )
        if keyless:
            return
        presented = list(presented_keys(scope))
        owner = self._keyring.owner(presented)
        if owner is not None:
            current().key = owner
        elif not (method in _SAFE_METHODS and scope["path"] in self._open):
            what = "this API key is not known" if presented else "an API key is missing"
            message = f'{what}: send a right one as "Authorization: Bearer KEY"'
            raise AuthenticationError(message, code="invalid_api_key")


def _of_another_site(headers: Headers, keyless: bool) -> bool:
    """Does a page of another site ask; browsers say so outright only over https and to localhost.

    A name of the page's own proves nothing there, if strangers can register it: it may have led to them when
    the page was loaded, and now lead here (DNS rebinding). Such a page has no key, and no certificate.
    """
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site is not None or origin is None:
        return site == "cross-site"
    try:
        page, host = urlsplit(origin), urlsplit(f"//{headers.get('Host', '')}").hostname
    except ValueError:
        return True
    return page.hostname != host or (keyless and page.scheme == "http" and _is_public_name(host or ""))


def _is_public_name(host: str) -> bool:
    """Can it be registered: no address, no name of one part as containers have, none of a private network."""
    *rest, last = host.rstrip(".").split(".")
    return bool(rest) and not last.isdigit() and last not in _PRIVATE_NAMES


def open_paths(config: AccessConfig) -> set[str]:
    """The paths that need no key by configuration. Raises ConfigError for an unknown name."""
    names = split(config.open_routes)
    unknown = set(names) - set(_OPEN_ON_REQUEST)
    if unknown:
        known = ", ".join(_OPEN_ON_REQUEST)
        raise ConfigError(f"--open-routes names {min(unknown)!r}, but may only name {known}")
    return {_OPEN_ON_REQUEST[name] for name in names}


def origins_of(config: AccessConfig) -> list[str]:
    """The origins of pages that may call. Raises ConfigError for what no browser would send."""
    origins = split(config.cors_origins)
    for origin in origins:
        if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"--cors-origins: {origin!r} is no origin: give scheme and host alone, in small letters, "
                "such as https://example.org"
            )
    return origins


def presented_keys(scope: Scope) -> Iterator[bytes]:
    """Every key that came, in the forms of OpenAI, Azure and ElevenLabs; a WebSocket has more of them."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            yield _bearer(value)
        elif name in (b"xi-api-key", b"api-key"):
            yield value
    if scope["type"] != "websocket":
        return
    for protocol in scope.get("subprotocols", ()):
        if protocol.startswith(KEY_PROTOCOL):
            yield protocol.removeprefix(KEY_PROTOCOL).encode()
    for name, text in parse_qsl(scope["query_string"].decode("latin-1")):
        if name in _KEY_PARAMETERS:
            yield _bearer(text.encode())


def _bearer(value: bytes) -> bytes:
    scheme, _, secret = value.partition(b" ")
    return secret.strip() if scheme.lower() == b"bearer" else value


async def refuse(error: StentorError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error object, to a WebSocket as well, whose handshake then fails with its status."""
    response = errors.error_response(error)
    if scope["type"] == "http":
        return await response(scope, receive, send)
    return await WebSocket(scope, receive, send).send_denial_response(response)


class BodyLimit:
    """Refuses a body that stalls, or has more than `max_bytes`: before it comes, if its length is announced.

    `pause_s` is how long a client may send nothing in the middle of its body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, pause_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._pause_s = pause_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        announced = Headers(scope=scope).get("Content-Length", "")
        if announced.isdecimal() and float(announced) > self._max_bytes:
            refusal = errors.http_error_response(Request(scope), HTTPException(413))
            return await refusal(scope, receive, send)
        received, complete = 0, False

        async def count() -> Message:
            nonlocal received, complete
            # After the body, this waits for the client to leave.
            try:
                async with asyncio.timeout(None if complete else self._pause_s):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408) from None
            complete = complete or not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413)
            return message

        return await self._app(scope, count, send)

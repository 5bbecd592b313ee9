"""Knows how a server process lives: it says when it is ready, drains when told to end, tells how it ended."""

import logging
import math
import os
import socket
import time
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from stentor.config import ServerConfig
from stentor.server.admission import Admission

# For the last bytes of answers, when all requests ended just within their time.
_LEAST_GRACE_S = 1

log = logging.getLogger(__name__)


def uvicorn_settings(app: ASGIApp, max_message_bytes: int) -> uvicorn.Config:
    """How the app is served; what is said of starts, stops and requests is said by the server itself."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws_max_size=max_message_bytes,
        # A ping behind audio is answered when that has been played; what is left unread tells who has gone.
        ws_ping_timeout=None,
        # Audio hardly shrinks, and the event loop would do the work.
        ws_per_message_deflate=False,
    )


class Server(uvicorn.Server):
    """Serves until a signal or a broken pipeline ends it.

    The first SIGTERM or SIGINT drains: not ready, no new speech, until what runs is done; a second one ends
    at once. `status` is the process's exit status then: 0 if every request was finished, 1 if some were cut
    off or the pipeline broke down, 128 + N after a second signal N.
    """

    def __init__(
        self, settings: uvicorn.Config, admission: Admission, config: ServerConfig, hello: str
    ) -> None:
        super().__init__(settings)
        self.status = 0
        self._admission = admission
        self._config = config
        self._hello = hello
        self._told_s: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so: to a script on stdout, to systemd on its socket."""
        await super().startup(sockets)
        if not self.should_exit:
            print(self._hello, flush=True)
            notify("READY=1")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to end. Unlike uvicorn's, it is not raised again afterwards: `status` tells."""
        if self._told_s is None:
            self._told_s = time.monotonic()
            self._admission.draining = self._admission.ending = True
            return
        self.status = 128 + sig
        self._end_at_once()

    async def on_tick(self, counter: int) -> bool:
        """Several times a second: is it time to go."""
        if not self._admission.alive():
            log.critical("the pipeline is beyond repair; the server ends")
            self.status = 1
            self._end_at_once()
        elif self._told_s is not None and not self.should_exit:
            self._drain(time.monotonic() - self._told_s, self._admission.num_open())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the door, and give the answers under way the rest of their time."""
        notify("STOPPING=1")
        began_s = time.monotonic()
        await super().shutdown(sockets)
        grace_s = self.config.timeout_graceful_shutdown
        if not self.status and grace_s is not None and time.monotonic() - began_s >= grace_s:
            self.status = 1

    def _drain(self, waited_s: float, num_open: int) -> None:
        delay_s, limit_s = self._config.drain_delay_s, self._config.shutdown_timeout_s
        if waited_s < delay_s or (num_open and waited_s < delay_s + limit_s):
            return
        if num_open:
            log.warning("%d requests were not finished within %g s; they are cut off", num_open, limit_s)
            self.status = 1
            self._end_at_once()
            return
        self.config.timeout_graceful_shutdown = max(_LEAST_GRACE_S, math.ceil(delay_s + limit_s - waited_s))
        self.should_exit = True

    def _end_at_once(self) -> None:
        self.config.timeout_graceful_shutdown = 0
        self.should_exit = self.force_exit = True


def notify(state: str) -> None:
    """Tell systemd, if it started us (`Type=notify`); format: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # A name without a file.
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), address)
    except OSError as error:
        log.warning("systemd cannot be told %s: %s", state, error)

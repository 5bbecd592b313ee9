"""A chain on another machine as the pipeline holds it: ready while its worker is, back when that is back."""

import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

import stentor
from stentor.errors import ConfigError, Failure, InternalError, RequestError, to_failure
from stentor.pipeline.links import Doorbell, Item, Receiver, Sender, Socket
from stentor.pipeline.remote.messages import (
    HELLO,
    ITEMS,
    Remote,
    State,
    decode_items,
    decode_state,
    encode_items,
    secure,
    shifted,
)
from stentor.stages.base import Abort, Payload

_ENDS = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

log = logging.getLogger(__name__)


class RemoteLaunch:
    """A chain that a `ChainServer` runs, and both ends of the links to it: a `Sender` and a `Receiver`.

    While there is no session it is not ready, and fails at once whatever is sent.
    """

    comes_back = True

    def __init__(self, remote: Remote, bell: Doorbell) -> None:
        self.head: Sender = self
        self.tail: Receiver = self
        self.failure: Failure | None = None  # It cannot be kept running only if it is another model.
        self.descriptors: Sequence[int] = ()
        self._remote, self._bell = remote, bell
        self._context: zmq.Context[Socket] = zmq.Context()
        self._socket = secure(self._context.socket(zmq.DEALER), remote.secret, server=False)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # Nothing waits for a connection that there is not.
        self._events: Socket = self._socket.get_monitor_socket(_ENDS | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self.sockets: Sequence[Socket] = (self._socket, self._events)
        self._token = b""  # Of the present session, or of the one that was asked for.
        self._state: State | None = None  # None: there is no session.
        self._held: set[str] = set()  # What was sent in this session, until its Abort came back.
        self._answers: deque[Item] = deque()  # In place of a worker that cannot be reached.
        self._lost_aborts = False
        self._warned = False

    @property
    def ready(self) -> bool:
        """Would the worker serve a request now."""
        return self._state is not None and self._state.ready

    def start(self) -> None:
        """Begin to look for the worker; returns at once. ConfigError if its address is none."""
        log.info("looking for the worker at %s", self._remote.address)
        try:
            self._socket.connect(self._remote.address)
        except zmq.ZMQError as error:
            message = f"--device {self._remote.address}: no address, write tcp://HOST:PORT ({error})"
            raise ConfigError(message) from None

    def supervise(self) -> bool:
        """True if Aborts that were under way may have been lost."""
        lost, self._lost_aborts = self._lost_aborts, False
        return lost

    def stats(self) -> dict[str, Any]:
        """As the worker told last; nothing while there is no session."""
        return {} if self._state is None else self._state.stats

    def restart(self, worker: str) -> None:
        """Only who runs a machine may restart what runs there. Raises RequestError."""
        raise RequestError(f"worker {worker!r} runs on another machine: restart it there")

    def has_credit(self) -> bool:
        """Always: what cannot be sent is answered here, and the house bounds what is."""
        return True

    def send(self, items: Sequence[Item]) -> None:
        if self._state is not None:
            try:
                self._socket.send_multipart((ITEMS, encode_items(items)), zmq.NOBLOCK)
            except zmq.Again:
                self._lose()
            else:
                self._held.update(item.request_id for item in items)
                return
        for item in items:
            self._answers.append(item if isinstance(item, Abort) else self._failed(item.request_id))
        self._bell.ring()

    def service(self) -> None:
        """Notice connections that came and went."""
        while self._events.poll(0):
            event = recv_monitor_message(self._events)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._warned = False
                self._token = secrets.token_bytes(8)
                with contextlib.suppress(zmq.Again):  # It has ended again already.
                    self._socket.send_multipart((HELLO, self._token), zmq.NOBLOCK)
            elif event == zmq.EVENT_DISCONNECTED:
                self._lose()
            elif not self._warned:
                self._warned = True  # It is tried again and again.
                log.warning("%s does not shake hands: is the secret the same there?", self._remote.address)

    def receive(self) -> Sequence[Item] | None:
        if self._answers:
            items: Sequence[Item] = list(self._answers)
            self._answers.clear()
            return items
        while self._socket.poll(0):
            token, kind, data = self._socket.recv_multipart()
            if token != self._token:
                continue
            if kind == ITEMS:
                items = decode_items(data)
                self._held.difference_update(item.request_id for item in items if isinstance(item, Abort))
                return [shifted(item, time.monotonic()) for item in items]
            self._learn(data)
        return None

    def close(self) -> None:
        self.stop(0.0)

    def stop(self, timeout_s: float) -> None:
        """Hang up, at once; the worker may serve others."""
        self._socket.disable_monitor()
        self._context.destroy(linger=0)

    def _learn(self, data: bytes) -> None:
        """Read what the worker tells of itself; it is of no use if it is not the one that was meant."""
        try:
            state = decode_state(data)
            meant = self._remote.info
            # The same checkpoint may lie in another folder there.
            info = msgspec.structs.replace(state.info, name=meant.name, checkpoint=meant.checkpoint)
            same = (state.version, info) == (stentor.__version__, meant)
        except msgspec.DecodeError:
            same = False
        if not same:
            message = (
                f"the worker at {self._remote.address} is of another version, serves another model or has "
                "another --max-context: start both ends alike"
            )
            self.failure = to_failure(ConfigError(message))
            return
        if self._state is None:
            log.info("the worker at %s is connected", self._remote.address)
        elif state.lives != self._state.lives:
            self._lost_aborts = True
        self._state = state

    def _lose(self) -> None:
        """There is no session any more: what was sent in it has failed."""
        if self._state is not None:
            log.warning("the worker at %s cannot be reached any more", self._remote.address)
        self._state, self._token = None, b""
        self._lost_aborts = True
        self._answers.extend(self._failed(request_id) for request_id in sorted(self._held))
        self._held.clear()
        self._bell.ring()

    def _failed(self, request_id: str) -> Payload:
        lost = InternalError(f"the worker at {self._remote.address} died or is out of reach; send it again")
        return Payload(request_id, last=True, failure=to_failure(lost))

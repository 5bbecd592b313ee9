"""The end of a remote chain that runs it: for the front doors that connect, each with requests of its own."""

import logging
import time
from collections.abc import Sequence
from itertools import count

import msgspec
import zmq

import stentor
from stentor.config import PipelineConfig
from stentor.errors import ConfigError, summary
from stentor.pipeline.chain import Chain
from stentor.pipeline.links import Doorbell, Item, Socket
from stentor.pipeline.remote.messages import (
    HELLO,
    ITEMS,
    STATE,
    State,
    decode_items,
    encode_items,
    secure,
    shifted,
)
from stentor.request import ModelInfo, SpeechRequest
from stentor.stages.base import Abort, Payload, StageSpec

_TELL_EVERY_S = 1.0
_MESSAGES_PER_TURN = 64
_STOP_S = 3.0
_NUMBERS = count(1)

log = logging.getLogger(__name__)


class _Session:
    """One connection of a front door; `held` are its requests, by the names that they have in the chain."""

    def __init__(self, route: bytes, token: bytes) -> None:
        self.route, self.token = route, token
        self.held: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def name(self, item: Item) -> Item:
        """The item under a name that no other request has or had: front doors do not know each other's."""
        if isinstance(item, Payload) or item.request_id not in self._names:
            self._names[item.request_id] = f"{item.request_id}@{next(_NUMBERS)}"
        name = self._names[item.request_id]
        self.held[name] = item.request_id
        if isinstance(item, Payload) and isinstance(item.data, SpeechRequest):
            item = msgspec.structs.replace(item, data=msgspec.structs.replace(item.data, request_id=name))
        return msgspec.structs.replace(item, request_id=name)

    def own(self, items: Sequence[Item]) -> list[Item]:
        """Those of the items that are its requests', as it calls them; behind an Abort nothing is."""
        found = []
        for item in items:
            request_id = self.held.get(item.request_id)
            if request_id is not None:
                if isinstance(item, Abort):
                    del self.held[item.request_id], self._names[request_id]
                    item = shifted(item, -time.monotonic())
                found.append(msgspec.structs.replace(item, request_id=request_id))
        return found


class ChainServer:
    """Runs one chain and serves it at `address` (`tcp://host:port`).

    Raises ConfigError if nobody can listen there.
    """

    def __init__(
        self, specs: Sequence[StageSpec], config: PipelineConfig, info: ModelInfo, address: str
    ) -> None:
        self._info = info
        self._bell = Doorbell()
        self._chain = Chain(specs, "", config)
        self._context: zmq.Context[Socket] = zmq.Context()
        self._socket = secure(self._context.socket(zmq.ROUTER), config.worker_secret, server=True)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # A front that is gone is an error, not silence.
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise ConfigError(f"cannot listen on {address}: {error}; choose another with --listen") from None
        self.address = self._socket.get_string(zmq.LAST_ENDPOINT)
        self._sessions: dict[bytes, _Session] = {}
        self._leaving: set[str] = set()  # Requests of ended sessions, until their Abort has passed.
        self._lives = 0
        self._told_at_s = 0.0
        self._told: tuple[bool, int] | None = None  # None: somebody new has to be told.
        self._stop_at_s: float | None = None

    def run(self) -> None:
        """Serve until told to stop. Raises StentorError if the chain cannot be started or kept running."""
        try:
            self._chain.start(self._bell)
            while not self._over():
                self._turn()
        finally:
            self._chain.stop(_STOP_S)
            self._context.destroy(linger=0)

    def stop(self, within_s: float) -> None:
        """Be ready for no new request, and end once those that run are done; may be called by a signal."""
        self._stop_at_s = time.monotonic() + within_s
        self._bell.ring()

    def _over(self) -> bool:
        if self._stop_at_s is None:
            return False
        return time.monotonic() >= self._stop_at_s or not any(one.held for one in self._sessions.values())

    def _turn(self) -> None:
        chain = self._chain
        waits_s = [left for left in (chain.patience_s(), _TELL_EVERY_S if self._sessions else None) if left]
        self._bell.wait((*chain.sources, self._socket), min(waits_s, default=None))
        chain.launch.head.service()
        if chain.launch.supervise():
            self._lives += 1
            chain.queue.extend(Abort(name) for name in sorted(self._leaving))
        trouble = chain.trouble()
        if trouble is not None:
            raise trouble
        self._listen()
        chain.feed()
        self._deliver()
        self._tell()

    def _listen(self) -> None:
        """Take what the front doors have sent."""
        while self._socket.poll(0):
            match self._socket.recv_multipart():
                case [route, kind, token] if kind == HELLO:
                    self._sessions[route] = _Session(route, token)
                    self._told = None
                case [route, kind, data] if kind == ITEMS and route in self._sessions:
                    self._take(self._sessions[route], data)

    def _take(self, session: _Session, data: bytes) -> None:
        try:
            items = [session.name(item) for item in decode_items(data)]
        except Exception as error:
            log.warning("a front door does not speak as this version does: %s", summary(error))
            self._end(session)
            return
        self._chain.queue.extend(items)

    def _deliver(self) -> None:
        """Give each front door what came out of the last stage for it."""
        for _ in range(_MESSAGES_PER_TURN):
            arrived = self._chain.launch.tail.receive()
            if arrived is None:
                return
            for session in list(self._sessions.values()):
                if items := session.own(arrived):
                    self._send(session, ITEMS, encode_items(items))
            self._leaving.difference_update(item.request_id for item in arrived if isinstance(item, Abort))
        self._bell.ring()

    def _tell(self) -> None:
        """Tell every front door how the chain is, when that has changed or a second has passed."""
        now_s, news = time.monotonic(), (self._chain.ready and self._stop_at_s is None, self._lives)
        if news == self._told and now_s - self._told_at_s < _TELL_EVERY_S:
            return
        self._told, self._told_at_s = news, now_s
        state = State(stentor.__version__, self._info, *news, self._chain.stats())
        for session in list(self._sessions.values()):
            self._send(session, STATE, msgspec.msgpack.encode(state))

    def _send(self, session: _Session, kind: bytes, data: bytes) -> None:
        try:
            self._socket.send_multipart((session.route, session.token, kind, data), zmq.NOBLOCK)
        except zmq.ZMQError:
            self._end(session)

    def _end(self, session: _Session) -> None:
        """The session is over: nobody wants its requests any more."""
        log.info("a front door has gone, %d of its requests with it", len(session.held))
        self._sessions.pop(session.route, None)
        self._leaving |= session.held.keys()
        self._chain.queue.extend(Abort(name) for name in sorted(session.held))

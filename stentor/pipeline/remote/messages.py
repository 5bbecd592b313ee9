"""How the two ends of a chain on another machine talk.

Over one TCP connection of ZMQ go two kinds of message from the front, HELLO with a token and ITEMS, and two
from the worker, STATE and ITEMS, each behind the token of the HELLO that it answers. A connection that breaks
loses what was under way, so a session ends with it: the front fails what it had sent there, the worker
forgets it, and the next connection is a new session.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec
import zmq
from zmq.utils import z85

from stentor.pipeline import wire
from stentor.pipeline.links import Item, Socket
from stentor.request import ModelInfo
from stentor.stages.base import Abort, StageTimes

HELLO, ITEMS, STATE = b"hello", b"items", b"state"
SCHEME = "tcp://"

_HEARTBEAT_MS, _SILENCE_MS = 1000, 5000


class State(msgspec.Struct, frozen=True):
    """What a worker tells of itself, every second at least.

    `lives` grows when a process of its chain had to be started again.
    """

    version: str
    info: ModelInfo
    ready: bool
    lives: int
    stats: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Remote:
    """Where a chain runs (`tcp://host:port`), what it must serve, and the secret of both ends, if any."""

    address: str
    info: ModelInfo
    secret: str


def secure(socket: Socket, secret: str, *, server: bool) -> Socket:
    """Have the socket notice a silent peer, and, with a secret, speak CurveZMQ to those who know it too.

    Both ends derive the server's key pair from the secret; who does not know it cannot shake hands.
    """
    socket.linger = 0
    socket.set_hwm(0)
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _SILENCE_MS)
    if secret:
        private_key = z85.encode(sha256(b"stentor worker " + secret.encode()).digest())
        if server:
            socket.curve_server, socket.curve_secretkey = True, private_key
        else:
            socket.curve_serverkey = zmq.curve_public(private_key)
            socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
    return socket


def shifted(item: Item, by_s: float) -> Item:
    """The item with its times moved: between the ends go ages, for each machine has a clock of its own."""
    if not isinstance(item, Abort):
        return item

    def moved(time_s: float | None) -> float | None:
        return None if time_s is None else time_s + by_s

    times = (
        StageTimes(one.stage, one.came_s + by_s, moved(one.first_s), moved(one.last_s)) for one in item.times
    )
    return msgspec.structs.replace(item, times=tuple(times))


def encode_items(items: Sequence[Item]) -> bytes:
    """The items with all their arrays, as `decode_items` reads them."""
    return wire.encode_message(0, 0, items, lambda _: None)[0]


def decode_items(data: bytes) -> Sequence[Item]:
    """The items; what does not fit the types is a failure of its request."""
    return _DECODER.decode(data).items


_DECODER = wire.MessageDecoder(None)
decode_state = msgspec.msgpack.Decoder(State).decode

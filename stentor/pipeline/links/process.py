"""The link between two processes: messages over ZMQ, large arrays and counters in shared memory.

Either end may be killed at any moment and started again (a new *incarnation* of it); nothing vanishes
silently:

- The sender keeps every message until the receiver's counter says that it was taken. The counter outlives the
  receiver, so the sender knows exactly what a dead one had taken; its successor gets whatever it had not.
- A request of which a dead receiver had taken something may have died with it, so its successor is told of
  that request's failure first. If the request had left the dead worker after all, it survives: whoever has
  seen its last piece ignores a failure that comes later.
- The pipeline sends an Abort after every request, however it ended; so what both ends remember stays bounded.

The sender binds, so that a receiver finds it again by itself. It sends nothing before a receiver has said
hello: the number of its incarnation, said after every handshake, once it has read whatever a former sender
had sent. Nothing, said to a sender, is a hint that credits came back; how many stands in the arena.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import zmq

from stentor.errors import InternalError, to_failure
from stentor.pipeline import wire
from stentor.pipeline.links import Item, Socket
from stentor.pipeline.links.arena import SENT, TAKEN, Arena, Ring
from stentor.stages.base import Abort, Payload

_RECONNECT_MS = 10


@dataclass(frozen=True)
class Exchange:
    """Where the links of one pipeline meet, as one process sees it; `incarnation` counts its lives from 1."""

    folder: str
    arena: Arena
    credits: int
    incarnation: int = 1
    context: "zmq.Context[Socket]" = field(default_factory=zmq.Context)

    def endpoint(self, link: int) -> str:
        """The address at which the sender of link number `link` is bound."""
        return f"ipc://{self.folder}/link-{link}"

    def socket(self, kind: int) -> Socket:
        """A socket that drops nothing by itself (credits bound it) and never delays its process's end."""
        socket: Socket = self.context.socket(kind)
        socket.set_hwm(0)
        socket.linger = 0
        return socket


class _Sent(NamedTuple):
    sequence: int
    items: Sequence[Item]
    ring_mark: int


class ProcessSender:
    """Implements `Sender` for link number `link`."""

    def __init__(self, exchange: Exchange, link: int) -> None:
        self._socket = exchange.socket(zmq.ROUTER)
        self._socket.bind(exchange.endpoint(link))
        self.sockets: Sequence[Socket] = (self._socket,)
        self._exchange, self._arena, self._link = exchange, exchange.arena, link
        self._ring = Ring(exchange.arena, link)
        self._sequence = 0
        self._under_way: deque[_Sent] = deque()
        self._route = b""
        self._receiver = 0  # The receiver's incarnation; 0: none has said hello yet.
        self._entered: set[str] = set()  # Requests of which the receiver has taken something.
        self._lost: set[str] = set()  # Requests that died with a receiver, until their Abort has passed here.
        self._arena.set_count(link, SENT, exchange.incarnation, 0)

    def has_credit(self) -> bool:
        self.service()
        return len(self._under_way) < self._exchange.credits

    def send(self, items: Sequence[Item]) -> None:
        """Put one message on its way; further pieces of requests that died with a receiver are dropped."""
        alive = list(self._without_lost(items)) if self._lost else items
        if alive:
            self._post(alive)

    def service(self) -> None:
        """Take back credits, and send again what a new receiver lacks."""
        while True:
            try:
                route, note = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if note and int(note) > self._receiver:
                self._welcome(route, int(note))
        self._settle()

    def close(self) -> None:
        self._socket.close()

    def _settle(self) -> None:
        """Forget what the receiver has taken, and free its memory."""
        sender, taken = self._arena.count(self._link, TAKEN)
        if sender != self._exchange.incarnation:
            return
        while self._under_way and self._under_way[0].sequence <= taken:
            message = self._under_way.popleft()
            self._ring.free(message.ring_mark)
            for item in message.items:
                if isinstance(item, Abort):
                    self._entered.discard(item.request_id)
                else:
                    self._entered.add(item.request_id)
        if not self._under_way:
            self._ring.clear()

    def _welcome(self, route: bytes, receiver: int) -> None:
        """Tell a new receiver which requests died with the former, and send what that one had not taken."""
        self._settle()
        self._route, self._receiver = route, receiver
        missing = [message.items for message in self._under_way]
        self._sequence -= len(missing)
        self._under_way.clear()
        lost = sorted(self._entered)
        self._entered.clear()
        if lost:
            self._lost.update(lost)
            failure = to_failure(InternalError("a worker died while it held this request; send it again"))
            self._post([Payload(request_id, last=True, failure=failure) for request_id in lost])
        for items in missing:
            self.send(items)

    def _without_lost(self, items: Iterable[Item]) -> Iterable[Item]:
        for item in items:
            if isinstance(item, Abort):
                self._lost.discard(item.request_id)
            elif item.request_id in self._lost:
                continue
            yield item

    def _post(self, items: Sequence[Item]) -> None:
        self._sequence += 1
        # Without a receiver the ring is not ours yet: nobody may have read what a former sender put there.
        place = self._ring.place if self._route else lambda _: None
        data, items = wire.encode_message(self._exchange.incarnation, self._sequence, items, place)
        self._under_way.append(_Sent(self._sequence, items, self._ring.mark))
        self._arena.set_count(self._link, SENT, self._exchange.incarnation, self._sequence)
        if self._route:
            self._socket.send_multipart((self._route, data))


class ProcessReceiver:
    """Implements `Receiver` for link number `link`."""

    def __init__(self, exchange: Exchange, link: int) -> None:
        self._socket = exchange.socket(zmq.DEALER)
        # A new name for every life, so that nothing meant for a former receiver can reach this one.
        self._socket.setsockopt(zmq.ROUTING_ID, b"receiver-%d" % exchange.incarnation)
        self._socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self._handshakes: Socket = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._socket.connect(exchange.endpoint(link))
        self.sockets: Sequence[Socket] = (self._socket, self._handshakes)
        self._arena, self._link = exchange.arena, link
        self._decoder = wire.MessageDecoder(exchange.arena)
        self._hint_every = max(1, exchange.credits // 2)
        self._hello = b"%d" % exchange.incarnation
        self._owes_hello = False

    def receive(self) -> Sequence[Item] | None:
        while True:
            try:
                return self._take(self._decoder.decode(self._socket.recv(zmq.NOBLOCK)))
            except zmq.Again:
                if not self._connected_anew():
                    return None

    def close(self) -> None:
        self._socket.disable_monitor()
        self._handshakes.close()
        self._socket.close()

    def _take(self, message: wire.Message) -> Sequence[Item]:
        sender, taken = self._arena.count(self._link, TAKEN)
        expected = (sender, taken + 1) if message.sender == sender else (message.sender, 1)
        assert (message.sender, message.sequence) == expected, "a message vanished or came twice"
        self._arena.set_count(self._link, TAKEN, message.sender, message.sequence)
        # The sender waits only when all credits are spent, and then at least one of them passes here.
        if message.sequence % self._hint_every == 0:
            self._socket.send(b"")
        return message.items

    def _connected_anew(self) -> bool:
        """Notice a handshake; say hello at the next call, when what came before it is known to be read."""
        if self._owes_hello:
            self._owes_hello = False
            self._socket.send(self._hello)
        try:
            self._handshakes.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._owes_hello = True
        return True

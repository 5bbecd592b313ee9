"""What connects two workers: a sender and a receiver, each used by one thread, neither ever blocking."""

import os
from collections.abc import Sequence
from typing import Any, Protocol

import zmq

from stentor.stages.base import Abort, Payload

Item = Payload | Abort
Socket = zmq.Socket[Any]


class Sender(Protocol):
    """The upstream end. What is sent arrives in order, at most once, the items of one call together."""

    sockets: Sequence[Socket]  # What to wait on, beside the doorbell, for credits and for work for `service`.

    def has_credit(self) -> bool:
        """Is there a credit left, so that `send` keeps within the bound."""

    def send(self, items: Sequence[Item]) -> None:
        """Put one message on its way; `has_credit` must have been true."""

    def service(self) -> None:
        """Look after what came back from the other end; to be called after every wait."""

    def close(self) -> None:
        """Give up the connection; what is under way may be lost."""


class Receiver(Protocol):
    """The downstream end. Receiving a message gives its credit back."""

    sockets: Sequence[Socket]  # What to wait on, beside the doorbell, for the next message.

    def receive(self) -> Sequence[Item] | None:
        """The next message, or None when there is none now."""

    def close(self) -> None:
        """Give up the connection; what was not received may be lost."""


class Doorbell:
    """Wakes the one thread that waits on it; ringing is cheap, never blocks and is safe from any thread."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)
        self._rung = False

    def __del__(self) -> None:
        # Not before nobody can ring (but for other garbage): a closed descriptor may soon be somebody else's.
        self._rung = True
        os.close(self._read_end)
        os.close(self._write_end)

    def ring(self) -> None:
        """Make the present or the next `wait` return."""
        if not self._rung:
            self._rung = True
            os.write(self._write_end, b"\0")

    def wait(self, sources: Sequence[Socket | int], timeout_s: float | None = None) -> None:
        """Sleep until the bell is rung or one of the sockets and descriptors has something to read."""
        events = [(source, zmq.POLLIN) for source in (self._read_end, *sources)]
        ready = zmq.zmq_poll(events, -1 if timeout_s is None else max(0, int(timeout_s * 1000) + 1))
        if any(source == self._read_end for source, _ in ready):
            os.read(self._read_end, 4096)
            # After reading, and before the caller looks around: a ring from now on is a new one.
            self._rung = False

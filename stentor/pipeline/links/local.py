"""The link between two workers of one process: a bounded queue of messages, handed over by reference."""

from collections import deque
from collections.abc import Sequence

from stentor.pipeline.links import Doorbell, Item, Socket


class LocalLink:
    """Implements `Sender` and `Receiver`; each end's doorbell wakes the worker that waits there."""

    def __init__(self, credits: int, sender_bell: Doorbell, receiver_bell: Doorbell) -> None:
        self.sockets: Sequence[Socket] = ()
        self._credits = credits
        self._sender_bell, self._receiver_bell = sender_bell, receiver_bell
        self._messages: deque[Sequence[Item]] = deque()
        self._sender_waits = False

    @property
    def under_way(self) -> int:
        """Messages sent and not yet received."""
        return len(self._messages)

    def has_credit(self) -> bool:
        """Is there a credit left; if not, the sender's doorbell rings as soon as there is one."""
        if len(self._messages) < self._credits:
            return True
        self._sender_waits = True
        # A credit that came back before the flag was up rings nothing, so look again.
        return len(self._messages) < self._credits

    def send(self, items: Sequence[Item]) -> None:
        self._messages.append(items)
        self._receiver_bell.ring()

    def receive(self) -> Sequence[Item] | None:
        if not self._messages:
            return None
        items = self._messages.popleft()
        if self._sender_waits:
            self._sender_waits = False
            self._sender_bell.ring()
        return items

    def service(self) -> None:
        """Nothing comes back on this link but credits."""

    def close(self) -> None:
        """Nothing to free: the messages go with the link."""

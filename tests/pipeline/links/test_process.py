import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from stentor.pipeline.links import Item
from stentor.pipeline.links.arena import Arena, create_arena
from stentor.pipeline.links.process import Exchange, ProcessReceiver, ProcessSender
from stentor.request import Audio, Frames
from stentor.stages.base import Abort, Payload


class Ends:
    """Both ends of one link in this process, either of which may die and be born again."""

    def __init__(self, folder: str, credits: int = 4) -> None:
        self.folder, self.credits = folder, credits
        self.arena: Arena = create_arena(1)
        self.exchanges: list[Exchange] = []
        self.marks = 0
        self.sender = ProcessSender(self.exchange(1), 0)
        self.receiver = ProcessReceiver(self.exchange(1), 0)

    def exchange(self, incarnation: int) -> Exchange:
        arena = Arena(self.arena.descriptor, 1)
        self.exchanges.append(Exchange(self.folder, arena, self.credits, incarnation))
        return self.exchanges[-1]

    def new_sender(self, incarnation: int) -> None:
        self.sender.close()
        self.sender = ProcessSender(self.exchange(incarnation), 0)

    def new_receiver(self, incarnation: int) -> None:
        self.receiver.close()
        self.receiver = ProcessReceiver(self.exchange(incarnation), 0)

    def receive(self) -> list[Item]:
        """All items that are under way; a mark, sent after them, tells that they have arrived."""
        self.marks += 1
        mark = Abort(f"mark {self.marks}")
        sent = False
        items: list[Item] = []
        deadline = time.monotonic() + 30.0
        while mark not in items:
            if not sent and self.sender.has_credit():
                self.sender.send([mark])
                sent = True
            self.sender.service()
            items += self.receiver.receive() or []
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        return items[:-1]

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()
        for exchange in self.exchanges:
            exchange.context.destroy(linger=0)
        self.arena.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    with tempfile.TemporaryDirectory() as folder:
        made = Ends(folder)
        yield made
        made.close()


def piece(request_id: str, number: int = 0, last: bool = False) -> Payload:
    return Payload(request_id, Frames(np.full((1, 8), number, np.uint16)), last=last)


def told(items: Sequence[Item]) -> list[str]:
    """Items in a readable form: a0 (piece 0), a0. (the last), -a (Abort), !a (failure)."""

    def word(item: Item) -> str:
        if isinstance(item, Abort):
            return f"-{item.request_id}"
        if item.failure is not None:
            return f"!{item.request_id}"
        assert isinstance(item.data, Frames)
        return f"{item.request_id}{item.data.codes[0, 0]}" + "." * item.last

    return [word(item) for item in items]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_messages_arrive_in_order_with_exact_arrays(ends: Ends) -> None:
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal(n).astype(np.float32) for n in (0, 1, 5000, 200_000, 3_000_000)]
    ends.sender.send([Payload("a", Audio(waveform, 24_000)) for waveform in waveforms])
    ends.sender.send([piece("b", 7), Abort("c")])
    items = ends.receive()
    assert told(items[5:]) == ["b7", "-c"]
    for item, waveform in zip(items[:5], waveforms, strict=True):
        assert isinstance(item, Payload)
        assert isinstance(item.data, Audio)
        assert item.data.waveform.dtype == np.float32
        assert np.array_equal(item.data.waveform, waveform)
        assert item.data.waveform.flags.writeable


def test_never_more_messages_under_way_than_credits(ends: Ends) -> None:
    for number in range(4):
        assert ends.sender.has_credit()
        ends.sender.send([piece("a", number)])
    assert not ends.sender.has_credit()
    assert ends.arena.under_way(0) == 4
    assert told(ends.receive()) == ["a0", "a1", "a2", "a3"]
    wait_until(ends.sender.has_credit)
    assert ends.arena.under_way(0) == 0


def test_a_waiting_sender_is_woken_when_credits_come_back(ends: Ends) -> None:
    for number in range(4):
        ends.sender.send([piece("a", number)])
    ends.receive()
    # The helper serviced the sender; now only the receiver acts, and gives a hint for every two messages.
    for number in range(4):
        ends.sender.send([piece("a", number)])
    wait_until(lambda: ends.receiver.receive() is not None)
    wait_until(lambda: ends.receiver.receive() is not None)
    assert ends.sender.sockets[0].poll(2000)


def test_what_a_dead_receiver_had_not_taken_goes_to_its_successor(ends: Ends) -> None:
    ends.sender.send([piece("a", 0, last=True)])
    ends.sender.send([piece("b", 0)])
    ends.sender.send([piece("b", 1, last=True)])
    wait_until(lambda: (ends.sender.service() or ends.receiver.receive()) is not None)
    ends.new_receiver(2)
    # a was taken and may have died; of b nothing was lost.
    assert told(ends.receive()) == ["!a", "b0", "b1."]


def test_requests_that_a_dead_receiver_held_fail_and_their_late_pieces_are_dropped(ends: Ends) -> None:
    ends.sender.send([piece("a", 0), piece("b", 0)])
    ends.sender.send([piece("a", 1), piece("c", 0)])
    wait_until(lambda: (ends.sender.service() or ends.receiver.receive()) is not None)
    ends.new_receiver(2)
    assert told(ends.receive()) == ["!a", "!b", "c0"]
    ends.sender.send([piece("b", 1, last=True), piece("c", 1)])
    ends.sender.send([Abort("b"), Abort("a")])
    ends.sender.send([piece("b", 5)])
    assert told(ends.receive()) == ["c1", "-b", "-a", "b5"]


def test_an_abort_closes_a_request_so_that_later_deaths_do_not_concern_it(ends: Ends) -> None:
    ends.sender.send([piece("a", 0, last=True), piece("b", 0)])
    ends.sender.send([Abort("a")])
    assert told(ends.receive()) == ["a0.", "b0", "-a"]
    ends.new_receiver(2)
    assert told(ends.receive()) == ["!b"]


def test_a_failure_is_told_again_when_the_next_receiver_dies_too(ends: Ends) -> None:
    ends.sender.send([piece("a", 0)])
    assert told(ends.receive()) == ["a0"]
    ends.new_receiver(2)
    assert told(ends.receive()) == ["!a"]
    ends.new_receiver(3)
    assert told(ends.receive()) == ["!a"]
    ends.sender.send([Abort("a")])
    assert told(ends.receive()) == ["-a"]
    ends.new_receiver(4)
    assert told(ends.receive()) == []
    assert ends.arena.under_way(0) == 0


def test_a_new_sender_counts_anew_and_never_overwrites_what_was_not_read(ends: Ends) -> None:
    first = np.full(50_000, 1.0, np.float32)
    second = np.full(50_000, 2.0, np.float32)
    ends.sender.send([piece("a", 0)])
    assert told(ends.receive()) == ["a0"]
    ends.sender.send([Payload("b", Audio(first, 1))])
    time.sleep(0.1)  # It is now in the receiver's socket, its array in the ring.
    ends.new_sender(2)
    ends.sender.send([Payload("c", Audio(second, 1))])
    time.sleep(0.1)
    items = [item for item in ends.receive() if isinstance(item, Payload)]
    assert [item.request_id for item in items] == ["b", "c"]
    for item, waveform in zip(items, (first, second), strict=True):
        assert isinstance(item.data, Audio)
        assert np.array_equal(item.data.waveform, waveform)
    ends.sender.send([Payload("d", Audio(first, 1))])
    assert [item.request_id for item in ends.receive()] == ["d"]


def test_a_hello_said_twice_changes_nothing(ends: Ends) -> None:
    ends.sender.send([piece("a", 0)])
    assert told(ends.receive()) == ["a0"]
    ends.receiver._socket.send(ends.receiver._hello)
    ends.sender.send([piece("a", 1, last=True)])
    time.sleep(0.05)
    assert told(ends.receive()) == ["a1."]


def test_both_ends_may_die_at_once(ends: Ends) -> None:
    ends.sender.send([piece("a", 0)])
    assert told(ends.receive()) == ["a0"]
    ends.sender.send([piece("a", 1)])
    ends.new_receiver(2)
    ends.new_sender(2)
    ends.sender.send([piece("b", 0)])
    assert told(ends.receive()) == ["b0"]


def test_an_item_that_cannot_travel_fails_its_request_only(ends: Ends) -> None:
    objects = np.array([object()])
    ends.sender.send([piece("a", 0), Payload("b", Frames(objects)), piece("c", 0)])
    assert told(ends.receive()) == ["a0", "!b", "c0"]


def test_arrays_go_inline_when_the_ring_is_full(ends: Ends) -> None:
    large = np.arange(10_000_000, dtype=np.uint16)  # 20 MB: the second does not fit into 32 MiB.
    ends.sender.send([Payload("a", Frames(large.reshape(-1, 8)))])
    ends.receive()
    ends.sender.send([Payload(name, Frames(large.reshape(-1, 8))) for name in ("b", "c")])
    items = ends.receive()
    assert len(items) == 2
    for item in items:
        assert isinstance(item, Payload)
        assert isinstance(item.data, Frames)
        assert np.array_equal(item.data.codes.reshape(-1), large)


def test_nobody_else_may_enter(ends: Ends) -> None:
    assert Path(ends.folder).stat().st_mode & 0o077 == 0

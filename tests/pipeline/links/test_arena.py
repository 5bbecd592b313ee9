import os
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.pipeline.links import arena as module
from stentor.pipeline.links.arena import SENT, TAKEN, Ring, create_arena


def test_counters_are_read_as_written_by_whoever_maps_the_memory() -> None:
    arena = create_arena(3)
    other = module.Arena(arena.descriptor, 3)
    arena.set_count(1, SENT, 7, 2**39)
    other.set_count(1, TAKEN, 7, 2**39 - 5)
    assert other.count(1, SENT) == (7, 2**39)
    assert arena.count(1, TAKEN) == (7, 2**39 - 5)
    assert arena.under_way(1) == 5
    assert arena.count(0, SENT) == arena.count(2, SENT) == arena.count(0, TAKEN) == (0, 0)


def test_a_new_senders_messages_count_from_zero() -> None:
    arena = create_arena(1)
    arena.set_count(0, SENT, 1, 9)
    arena.set_count(0, TAKEN, 1, 9)
    arena.set_count(0, SENT, 2, 3)
    assert arena.under_way(0) == 3


def test_the_memory_has_no_name_and_costs_nothing_before_it_is_used() -> None:
    before = set(os.listdir("/dev/shm"))
    arena = create_arena(4)
    assert os.fstat(arena.descriptor).st_size > 4 * module.RING_BYTES
    assert os.fstat(arena.descriptor).st_blocks == 0
    assert os.fstat(arena.descriptor).st_nlink == 0
    assert set(os.listdir("/dev/shm")) == before
    arena.close()


def test_a_machine_without_memfd_uses_a_file_that_has_no_name_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    arena = create_arena(1)
    offset = Ring(arena, 0).place(np.arange(100))
    assert offset is not None
    assert np.array_equal(module.Arena(arena.descriptor, 1).read(offset, 800).view(np.int64), np.arange(100))
    assert os.fstat(arena.descriptor).st_nlink == 0
    arena.close()


def test_reading_outside_the_rings_is_refused() -> None:
    arena = create_arena(1)
    with pytest.raises(ValueError, match="shared memory"):
        arena.read(0, 8)
    with pytest.raises(ValueError, match="shared memory"):
        arena.read(module._COUNTERS_BYTES + module.RING_BYTES - 4, 8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6000), st.booleans()), max_size=80))
def test_what_is_placed_stays_until_it_is_freed(script: list[tuple[int, bool]]) -> None:
    ring_bytes = 16 * 1024
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RING_BYTES", ring_bytes)
        arena = create_arena(2)
        ring = Ring(arena, 1)
        live: deque[tuple[int, bytes, int]] = deque()
        for number, (size, free_one) in enumerate(script):
            array = np.frombuffer(bytes([number % 256]) * size, np.uint8)
            offset = ring.place(array)
            if offset is not None:
                live.append((offset, array.tobytes(), ring.mark))
            elif not live:
                raise AssertionError("an empty ring refuses a small array")
            if live and (free_one or offset is None):
                ring.free(live.popleft()[2])
            if not live:
                ring.clear()
            for place, content, _ in live:
                assert arena.read(place, len(content)).tobytes() == content
                assert place >= module._COUNTERS_BYTES + ring_bytes
    arena.close()


def test_a_ring_uses_low_pages_again_so_that_memory_stays_flat() -> None:
    arena = create_arena(1)
    ring = Ring(arena, 0)
    for _ in range(1000):
        assert ring.place(np.zeros(100_000, np.uint8)) is not None
        ring.free(ring.mark)
        ring.clear()
    assert os.fstat(arena.descriptor).st_blocks * 512 < 200_000
    arena.close()


def test_a_full_ring_says_so() -> None:
    arena = create_arena(1)
    ring = Ring(arena, 0)
    half = np.zeros(module.RING_BYTES // 2, np.uint8)
    assert ring.place(half) is not None
    assert ring.place(half) is not None
    mark = ring.mark
    assert ring.place(np.zeros(1, np.uint8)) is None
    ring.free(mark // 2)
    # Exactly filled up it would look like an empty one.
    assert ring.place(half) is None
    assert ring.place(half[:-64]) is not None
    arena.close()

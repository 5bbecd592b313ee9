"""The shared memory of one pipeline: two counters and one ring of array bytes per link.

It is a file without a name, so the kernel frees it with its last user, however that one ended. Every byte
has one writer: a ring and the `sent` counter belong to the link's sender, the `taken` counter to its
receiver. A counter is one aligned 64-bit word (the sender's incarnation and a count), readable at any
moment, also after its writer died.
"""

import mmap
import os
import tempfile

import numpy as np

from stentor.request import Array

RING_BYTES = 32 * 2**20  # Address space; pages are taken from memory when first used.
_COUNTERS_BYTES = 4096
SENT, TAKEN, _WORDS_PER_LINK = 0, 8, 16  # In words of 8 bytes: each counter has a cache line of its own.
_COUNT_BITS = 40
_ALIGNMENT = 64
MAX_LINKS = _COUNTERS_BYTES // 8 // _WORDS_PER_LINK


class Arena:
    """A view of the shared memory behind `descriptor`."""

    def __init__(self, descriptor: int, num_links: int) -> None:
        size_bytes = _COUNTERS_BYTES + num_links * RING_BYTES
        if os.fstat(descriptor).st_size < size_bytes:
            os.ftruncate(descriptor, size_bytes)
        memory = mmap.mmap(descriptor, size_bytes)
        self.descriptor, self.num_links = descriptor, num_links
        self._words = memoryview(memory)[:_COUNTERS_BYTES].cast("Q")
        self._bytes = np.frombuffer(memory, dtype=np.uint8)

    def close(self) -> None:
        """Close the descriptor; the memory stays mapped as long as this object lives."""
        os.close(self.descriptor)

    def set_count(self, link: int, counter: int, incarnation: int, count: int) -> None:
        """Note how many messages of this incarnation of the link's sender were `SENT`, or `TAKEN`."""
        self._words[link * _WORDS_PER_LINK + counter] = incarnation << _COUNT_BITS | count

    def count(self, link: int, counter: int) -> tuple[int, int]:
        """The sender's incarnation whose messages were last `SENT`, or `TAKEN`, and how many."""
        return divmod(self._words[link * _WORDS_PER_LINK + counter], 1 << _COUNT_BITS)

    def under_way(self, link: int) -> int:
        """Messages sent and not yet taken."""
        (sender, sent), (taken_from, taken) = self.count(link, SENT), self.count(link, TAKEN)
        return sent - taken if sender == taken_from else sent

    def write(self, offset: int, array: Array) -> None:
        """Put the bytes of a contiguous array at `offset`."""
        self._bytes[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)

    def read(self, offset: int, size_bytes: int) -> Array:
        """A copy of the bytes at `offset`, uint8 [size_bytes]."""
        if not _COUNTERS_BYTES <= offset <= len(self._bytes) - size_bytes:
            raise ValueError(f"no array of {size_bytes} bytes can be at {offset} in the shared memory")
        return self._bytes[offset : offset + size_bytes].copy()


class Ring:
    """The allocator of one link's ring: bytes are freed in the order in which they were placed."""

    def __init__(self, arena: Arena, link: int) -> None:
        self._arena = arena
        self._base = _COUNTERS_BYTES + link * RING_BYTES
        self._head = self._tail = 0

    def place(self, array: Array) -> int | None:
        """Copy a contiguous array into the ring; its offset in the arena, or None if there is no room."""
        size = -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        if self._head >= self._tail and self._head + size > RING_BYTES:
            start, room = 0, self._tail  # Wrap around: an array lies in one piece.
        else:
            start = self._head
            room = RING_BYTES + 1 if self._head >= self._tail else self._tail
        # Strictly below the tail: head == tail means an empty ring.
        if start + size >= room:
            return None
        self._head = start + size
        self._arena.write(self._base + start, array)
        return self._base + start

    @property
    def mark(self) -> int:
        """The place up to which the ring is used now, for `free`."""
        return self._head

    def free(self, mark: int) -> None:
        """Free what was placed before `mark` was read."""
        self._tail = mark

    def clear(self) -> None:
        """Free everything, so that low pages are used again first."""
        self._head = self._tail = 0


def create_arena(num_links: int) -> Arena:
    """A new arena, zeroed; to be closed when no further process needs its descriptor."""
    if hasattr(os, "memfd_create"):
        return Arena(os.memfd_create("stentor"), num_links)
    with tempfile.TemporaryFile() as file:
        return Arena(os.dup(file.fileno()), num_links)

"""Who owns which block of the KV cache, and which blocks of known prefixes can be shared."""

from collections import OrderedDict
from hashlib import blake2b

from stentor.engine.sequence import Sequence
from stentor.request import Array


class BlockManager:
    """Grants blocks to sequences; full blocks of prompts stay findable by content while memory lasts.

    A block's key is a digest of everything before and in it, reference codes included. A block is free, owned
    by one or more sequences, or kept: owned by none, findable, and the first to go when memory is short
    (least recently used first).
    """

    def __init__(self, num_blocks: int, block_size: int, prefix_caching: bool = True) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self._prefix_caching = prefix_caching
        self._free = list(range(num_blocks - 1, 0, -1))  # block 0 pads batches
        self._owners: dict[int, int] = {}
        self._by_key: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def num_available(self) -> int:
        """Blocks that could be granted now."""
        return len(self._free) + len(self._kept)

    @property
    def num_owned(self) -> int:
        """Blocks that belong to sequences."""
        return len(self._owners)

    def allocate(self, sequence: Sequence) -> bool:
        """Grant the blocks of the sequence's positions and of its next one; if too few, False and none.

        Sets `sequence.blocks` and `sequence.num_cached`, the leading positions that need no prefill: whole
        blocks only, and never the last position, whose hidden state gives the first row.
        """
        shared = [] if sequence.saved is not None else self._match(sequence)
        needed = sequence.num_positions // self.block_size + 1 - len(shared)
        if needed > self.num_available - sum(block in self._kept for block in shared):
            return False
        for block in shared:
            self._kept.pop(block, None)
            self._owners[block] = self._owners.get(block, 0) + 1
        sequence.blocks = shared + [self._take() for _ in range(needed)]
        sequence.num_cached = sequence.num_filled = len(shared) * self.block_size
        return True

    def extend(self, sequence: Sequence) -> bool:
        """Grant the sequence one more block; False if there is none left."""
        if not self.num_available:
            return False
        sequence.blocks.append(self._take())
        return True

    def publish(self, sequence: Sequence) -> None:
        """Make the full blocks of a prefilled prompt findable."""
        if not self._prefix_caching:
            return
        for block, key in zip(sequence.blocks, self._keys(sequence), strict=False):
            if key not in self._by_key and block not in self._key_of:
                self._by_key[key] = block
                self._key_of[block] = key

    def free(self, sequence: Sequence) -> None:
        """Take back the sequence's blocks; the findable ones among them are kept."""
        for block in reversed(sequence.blocks):
            self._owners[block] -= 1
            if self._owners[block]:
                continue
            del self._owners[block]
            if block in self._key_of:
                self._kept[block] = None
            else:
                self._free.append(block)
        sequence.blocks = []
        sequence.num_cached = sequence.num_filled = 0

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._kept.popitem(last=False)
            del self._by_key[self._key_of.pop(block)]
        self._owners[block] = 1
        return block

    def _match(self, sequence: Sequence) -> list[int]:
        if not self._prefix_caching:
            return []
        shared: list[int] = []
        for key in self._keys(sequence)[: (len(sequence.prompt) - 1) // self.block_size]:
            block = self._by_key.get(key)
            if block is None:
                break
            shared.append(block)
        return shared

    def _keys(self, sequence: Sequence) -> list[bytes]:
        if sequence.prefix_keys is None:
            sequence.prefix_keys = prefix_keys(sequence.prompt, self.block_size)
        return sequence.prefix_keys


def prefix_keys(prompt: Array, block_size: int) -> list[bytes]:
    """The keys of a prompt's full blocks, each a digest of the one before and of the block's own content."""
    keys: list[bytes] = []
    key = b""
    for start in range(0, len(prompt) - block_size + 1, block_size):
        key = blake2b(key + prompt[start : start + block_size].tobytes(), digest_size=16).digest()
        keys.append(key)
    return keys

"""What one forward pass knows of its batch: positions, where keys and values go, and whose they are."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DecodeBatch:
    """One new position for each of `batch` sequences.

    `positions` int64 [batch] are the new positions, `slots` int64 [batch] their places in the cache (block *
    block_size + offset), `block_tables` int64 [batch, num_blocks] the blocks of each sequence. Rows that pad
    the batch stand at position 0 of block 0, which belongs to nobody.
    """

    positions: Tensor
    slots: Tensor
    block_tables: Tensor


@dataclass(frozen=True)
class PrefillSpan:
    """The rows [start, end) of a prefill that belong to one sequence; its last `end - start` positions."""

    start: int
    end: int
    context: int


@dataclass(frozen=True)
class PrefillBatch:
    """Many new positions of several sequences, one after the other; rows behind the last span are padding.

    `positions`, `slots` and `token_ids` are int64 [num_tokens], an id below 0 says that a row of codes stands
    there; `block_tables` int64 [num_sequences, num_blocks] covers
    each whole context. The spans stand on the host for whoever loops over them, and on the device for
    whoever must not look: `starts` int32 [num_sequences + 1], where the rows of each sequence begin and
    those of the last end, and `contexts` int32 [num_sequences]. A sequence without rows pads the batch.
    """

    positions: Tensor
    slots: Tensor
    block_tables: Tensor
    starts: Tensor
    contexts: Tensor
    spans: tuple[PrefillSpan, ...]
    token_ids: Tensor

    @property
    def longest(self) -> int:
        """The most rows of one sequence; all of them where the host does not know the spans."""
        return max((span.end - span.start for span in self.spans), default=len(self.positions))


Batch = DecodeBatch | PrefillBatch


@dataclass(frozen=True)
class Place:
    """Where new keys and values go: `slots` int64 [num_tokens] of one layer's `cache`, which is
    [num_blocks, block_size, 2 * num_kv_heads, head_dim].
    """

    cache: Tensor
    slots: Tensor

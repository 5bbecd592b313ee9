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
    blocks: Tensor


@dataclass(frozen=True)
class PrefillBatch:
    """Many new positions of several sequences, one after the other; rows behind the last span are padding.

    `positions` and `slots` are int64 [num_tokens]; each span's `blocks` int64 [num_blocks] cover its whole
    context.
    """

    positions: Tensor
    slots: Tensor
    spans: tuple[PrefillSpan, ...]


Batch = DecodeBatch | PrefillBatch

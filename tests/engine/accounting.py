"""The books of block manager and scheduler, audited from outside; imports no torch."""

from collections import Counter

import numpy as np

from stentor.engine.block_manager import BlockManager
from stentor.engine.scheduler import Scheduler
from stentor.engine.sequence import Sequence
from stentor.request import SamplingParams

NUM_CODEBOOKS = 8


def make_sequence(name: str, prompt: np.ndarray | int, max_rows: int = 50, voice: int = 0) -> Sequence:
    """A sequence with this prompt, or with one of so many positions that all carry the text id `voice`."""
    if isinstance(prompt, int):
        matrix = np.zeros((prompt, 1 + NUM_CODEBOOKS), dtype=np.int32)
        matrix[:, 0] = voice
        prompt = matrix
    return Sequence(name, prompt, SamplingParams(temperature=0.0), max_rows)


def check_blocks(blocks: BlockManager, sequences: list[Sequence]) -> None:
    """Every block but 0 is free, kept or owned, just one of the three, and owned by those who hold it."""
    held = Counter(block for sequence in sequences for block in sequence.blocks)
    assert dict(held) == blocks._owners
    free, kept, owned = set(blocks._free), set(blocks._kept), set(blocks._owners)
    assert len(blocks._free) == len(free)
    assert len(free) + len(kept) + len(owned) == blocks.num_blocks - 1
    assert free | kept | owned == set(range(1, blocks.num_blocks))
    assert {block: key for key, block in blocks._by_key.items()} == blocks._key_of
    assert kept <= set(blocks._key_of)
    assert not free & set(blocks._key_of)
    assert blocks.num_available == len(free) + len(kept)
    assert blocks.num_owned == len(owned)


def check_schedule(scheduler: Scheduler, max_running: int, under_way: int = 0) -> None:
    """Nobody runs and waits, or runs before who came earlier; only who runs holds blocks, just enough, or
    whose prompt is computed in part. Of each sequence at most `under_way` rows have not been read.
    """
    running, waiting = scheduler.running, list(scheduler.waiting)
    assert len(running) <= max_running
    assert len({id(sequence) for sequence in running + waiting}) == len(running) + len(waiting)
    arrivals = [sequence.arrival for sequence in waiting]
    assert arrivals == sorted(arrivals)
    assert all(sequence.arrival < arrivals[0] for sequence in running if arrivals)
    assert [sequence for sequence in waiting if sequence.blocks] == (
        [scheduler._filling] if scheduler._filling else []
    )
    size = scheduler._blocks.block_size
    for slot, sequence in enumerate(running):
        assert sequence.slot == slot
        least = -(-sequence.num_positions // size)
        assert least <= len(sequence.blocks) <= (sequence.num_positions + under_way) // size + 1
    assert all(sequence.slot is None for sequence in waiting)
    check_blocks(scheduler._blocks, running + waiting)

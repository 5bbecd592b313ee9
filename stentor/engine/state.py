"""The running sequences on the device, one row each in the order of the batch, in buffers that never move."""

from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from stentor.engine.arrays import Values


class Status(IntEnum):
    """What a row of the batch is: running, ended (and why), or padding."""

    RUNNING = 0
    STOP = 1
    LENGTH = 2
    RUNAWAY = 3
    IDLE = 4


# What one number of a row is, unless it is an int64; a row is a run of 64-bit words all the same.
_NARROW = {
    "noise_key": "int32",
    "temperature": "float32",
    "top_p": "float32",
    "repetition_penalty": "float32",
}

# How many rows the repetition penalty looks back: 0.64 s, a few syllables. What comes back sooner is a loop;
# the same codes a second later are a voice that says the same sound again.
RECENT_ROWS = 16


@dataclass(frozen=True)
class BatchState:
    """All that one step reads and writes, one row per sequence; slices of it are views.

    `last_rows` [n, num_codebooks] feed the next step, at `positions`; `step` counts the rows drawn so far.
    `ramp` runs to num_codebooks while the delay pattern opens; `countdown` is -1, or the rows left after the
    end of content. `noise_key` carries the seed (int32), `temperature`, `top_p`, `repetition_penalty` (all
    float32) and `top_k` the sampling, as `Draw` puts it. `recent_rows` [n, RECENT_ROWS * num_codebooks] is
    the repetition penalty's ring, row r at place r % RECENT_ROWS. Other integers are int64.

    All of them are views of one matrix of int64, `packed` [n, width], so that a row is written, moved or
    cleared by one copy. They are tensors, or NumPy's views of the same memory (`arrays`).
    """

    packed: Values
    last_rows: Values
    positions: Values
    status: Values
    step: Values
    ramp: Values
    countdown: Values
    max_rows: Values
    guard_rows: Values
    noise_key: Values
    temperature: Values
    top_p: Values
    top_k: Values
    repetition_penalty: Values
    recent_rows: Values
    block_tables: Values

    @staticmethod
    def allocate(size: int, num_codebooks: int, max_blocks: int, device: torch.device) -> "BatchState":
        """`size` idle rows."""
        rows = BatchState.idle(size, num_codebooks, max_blocks)
        return BatchState.over(torch.from_numpy(rows.packed).to(device, copy=True), num_codebooks)

    @staticmethod
    def idle(size: int, num_codebooks: int, max_blocks: int) -> "BatchState":
        """`size` idle rows in host memory, as arrays: at position 0 of block 0, never fed back."""
        width = num_codebooks + len(_SINGLES) + RECENT_ROWS * num_codebooks + max_blocks
        state = BatchState.over(np.zeros((size, width), np.int64), num_codebooks)
        state.status[:] = Status.IDLE
        state.countdown[:] = -1
        sampling = (state.temperature, state.top_p, state.top_k, state.repetition_penalty)
        for ones in (state.max_rows, state.guard_rows, *sampling):
            ones[:] = 1
        return state

    @staticmethod
    def over(packed: Values, num_codebooks: int) -> "BatchState":
        """The fields of `packed`, a tensor or an array."""
        places = accumulate((1 for _ in _SINGLES), initial=num_codebooks)
        singles = {name: _column(packed, place, name) for name, place in zip(_SINGLES, places, strict=False)}
        recent = num_codebooks + len(_SINGLES)
        tables = recent + RECENT_ROWS * num_codebooks
        return BatchState(
            packed=packed,
            last_rows=packed[:, :num_codebooks],
            recent_rows=packed[:, recent:tables],
            block_tables=packed[:, tables:],
            **singles,
        )

    @cached_property
    def arrays(self) -> "BatchState":
        """The same memory as arrays; on a CPU only."""
        return BatchState.over(self.packed.numpy(), self.last_rows.shape[1])

    def rows(self, start: int, end: int) -> "BatchState":
        """The rows [start, end), as views."""
        return BatchState.over(self.packed[start:end], self.last_rows.shape[1])

    def copy_row(self, slot: int) -> Tensor:
        """A copy of one row, [1, width]."""
        row: Tensor = self.packed[slot : slot + 1].clone()
        return row

    def write_rows(self, slot: int, rows: Tensor) -> None:
        """Replace the rows from `slot` on by packed ones."""
        self.packed[slot : slot + len(rows)] = rows


_WIDE = ("packed", "last_rows", "recent_rows", "block_tables")
_SINGLES = [field.name for field in fields(BatchState) if field.name not in _WIDE]


def _column(packed: Values, place: int, name: str) -> Values:
    if name not in _NARROW:
        return packed[:, place]
    library = torch if isinstance(packed, Tensor) else np
    # The lower half of the word, on the little-endian machines that PyTorch runs on.
    return packed.view(getattr(library, _NARROW[name]))[:, 2 * place]

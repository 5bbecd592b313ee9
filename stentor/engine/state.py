"""The running sequences on the device, one row each in the order of the batch, in buffers that never move."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor


class Status(IntEnum):
    """What a row of the batch is: running, ended (and why), or padding."""

    RUNNING = 0
    STOP = 1
    LENGTH = 2
    RUNAWAY = 3
    IDLE = 4


@dataclass(frozen=True)
class BatchState:
    """All that one step reads and writes, one row per sequence; slices of it are views.

    `last_rows` [n, num_codebooks] feed the next step, at `positions`; `step` counts the rows drawn so far.
    `ramp` runs to num_codebooks while the delay pattern opens; `countdown` is -1, or the rows left after the
    end of content. `noise_key` carries the seed (int32), `temperature`, `top_p` (both float32) and `top_k`
    the sampling, as `Draw` puts it. Other integers are int64.
    """

    last_rows: Tensor
    positions: Tensor
    block_tables: Tensor
    status: Tensor
    step: Tensor
    ramp: Tensor
    countdown: Tensor
    max_rows: Tensor
    guard_rows: Tensor
    noise_key: Tensor
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor

    @staticmethod
    def allocate(size: int, num_codebooks: int, max_blocks: int, device: torch.device) -> "BatchState":
        """`size` idle rows."""

        def integers(*shape: int, value: int = 0) -> Tensor:
            return torch.full((size, *shape), value, dtype=torch.int64, device=device)

        return BatchState(
            last_rows=integers(num_codebooks),
            positions=integers(),
            block_tables=integers(max_blocks),
            status=integers(value=Status.IDLE),
            step=integers(),
            ramp=integers(),
            countdown=integers(value=-1),
            max_rows=integers(value=1),
            guard_rows=integers(value=1),
            noise_key=integers().int(),
            temperature=torch.ones(size, device=device),
            top_p=torch.ones(size, device=device),
            top_k=integers(value=1),
        )

    def rows(self, start: int, end: int) -> "BatchState":
        """The rows [start, end), as views."""
        return BatchState(*(tensor[start:end] for tensor in self._tensors()))

    def copy_row(self, slot: int) -> "BatchState":
        """A copy of one row, [1, ...]."""
        return BatchState(*(tensor[slot : slot + 1].clone() for tensor in self._tensors()))

    def write_row(self, slot: int, row: "BatchState") -> None:
        """Replace one row."""
        for target, source in zip(self._tensors(), row._tensors(), strict=True):
            target[slot] = source[0]

    def clear_row(self, slot: int) -> None:
        """Make one row padding: it stands at position 0 of block 0 and is never fed back."""
        for tensor in self._tensors():
            tensor[slot] = 0
        self.status[slot] = Status.IDLE
        self.temperature[slot] = 1
        self.top_p[slot] = 1
        self.top_k[slot] = 1

    def _tensors(self) -> list[Tensor]:
        return [getattr(self, name) for name in self.__dataclass_fields__]

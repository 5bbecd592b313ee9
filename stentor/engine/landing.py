"""Records on their way to the host: on a GPU into pinned memory, read when the next step is under way."""

from collections.abc import Callable
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from stentor.engine.arrays import Values
from stentor.request import Array

# One is written while the other is read.
_BUFFERS = 2


class Landing:
    """Brings the records of one step after the other to the host, without waiting for them."""

    def __init__(self, max_rows: int, width: int, device: torch.device) -> None:
        self._device = device
        on_gpu = device.type == "cuda"
        size = (max_rows, width)
        buffers = [torch.empty(size, dtype=torch.int64, pin_memory=True) for _ in range(_BUFFERS * on_gpu)]
        self._buffers = cycle(buffers)
        self._buffer = next(self._buffers) if on_gpu else None
        self._size = 0
        self._records: list[Values] = []

    def add(self, record: Values) -> None:
        """Send a record, int64 [rows, width], behind those of the same step; its memory may be used again."""
        if self._buffer is None:
            self._records.append(np.asarray(record).copy())
            return
        end = self._size + len(record)
        self._buffer[self._size : end].copy_(record, non_blocking=True)
        self._size = end

    def close(self) -> Callable[[], Array]:
        """End a step: gives a function that waits for its records and reads all as one.

        It must be called before the next but one `close`.
        """
        if self._buffer is None:
            records, self._records = self._records, []
            return lambda: np.concatenate(records)
        rows, self._buffer, self._size = self._buffer[: self._size], next(self._buffers), 0
        wait = landed(self._device)

        def read() -> Array:
            wait()
            return rows.numpy().copy()

        return read


def upload(words: Array, device: torch.device, target: Tensor | None = None) -> Tensor:
    """The array on the device, in `target` if there is one; on a GPU it goes there in the order of the
    stream, and nobody waits.
    """
    tensor = torch.from_numpy(words)
    if device.type == "cuda":
        # The allocator of pinned memory keeps it until the copy is done.
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True) if target is None else target.copy_(tensor, non_blocking=True)


def download(values: Tensor) -> Tensor:
    """A copy in host memory; from a GPU it comes in the order of the stream: see `landed`."""
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
    return host.copy_(values, non_blocking=True)


def landed(device: torch.device) -> Callable[[], None]:
    """Gives a function that waits until all is done that the present stream holds now."""
    if device.type != "cuda":
        return lambda: None
    # Who waits sleeps: the next step is under way, and other threads have work.
    done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    done.record()
    return done.synchronize

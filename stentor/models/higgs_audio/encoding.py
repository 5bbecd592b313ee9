"""How references are encoded together, one by one where that takes too much memory, and of any length."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch

from stentor.engine.memory import one_out_of_memory
from stentor.errors import OverloadedError
from stentor.request import Array

# The switch is the process's: whoever turns it for a while does so alone.
_SWITCH = threading.RLock()


@contextmanager
def forgetful(device: torch.device) -> Iterator[None]:
    """Within it, a CPU convolves without oneDNN, which keeps tables of every length that it meets."""
    if device.type != "cpu":
        yield
        return
    with _SWITCH:
        # Not by its `flags`, which warns of what only Intel's GPUs have.
        before, *_ = torch.backends.mkldnn.set_flags(False)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            torch.backends.mkldnn.set_flags(before)  # type: ignore[no-untyped-call]


def within_memory(
    encode: Callable[[Sequence[Array]], list[Array]], waveforms: Sequence[Array], rate_hz: int
) -> list[Array]:
    """The codes of waveforms at `rate_hz`, encoded together, or one by one where that needs too much.

    Raises OverloadedError if one finds no memory.
    """
    with suppress(torch.OutOfMemoryError), one_out_of_memory():
        return encode(waveforms)
    if len(waveforms) == 1:
        seconds = len(waveforms[0]) / rate_hz
        raise OverloadedError(f"no memory for a reference of {seconds:.0f} s: shorten it, or try later")
    return [codes for waveform in waveforms for codes in within_memory(encode, [waveform], rate_hz)]

"""How several programs of one launch make one result: whoever comes last finishes it, in an order of its own.

What each of them has written before it arrives is seen by the last one (release and acquire at the scope of
the device), which reads it with `cache_modifier=".cg"`, from the second-level cache, where all of it is.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor


def counters(size: int, device: torch.device) -> Tensor:
    """int32 [size], zero between launches, so each stream has its own."""
    return _counters(
        size, device, torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    )


@cache
def _counters(size: int, device: torch.device, stream: int) -> Tensor:
    return torch.zeros(size, dtype=torch.int32, device=device)


@triton.jit
def is_last(arrived, count):
    """Have all other programs of `count` come before? The counter `arrived` goes back to zero then."""
    # One thread speaks for its program: the others have written, and read, before.
    tl.debug_barrier()
    last = tl.atomic_add(arrived, 1, sem="acq_rel") == count - 1
    if last:
        tl.store(arrived, 0)
    return last

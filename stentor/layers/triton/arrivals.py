"""How several programs of one launch make one result: whoever comes last finishes it, in an order of its own.

What each of them has written before it arrives is seen by the last one (release and acquire at the scope of
the device), which reads it with `cache_modifier=".cg"`, from the second-level cache, where all of it is.
"""

import triton
import triton.language as tl


@triton.jit
def is_last(arrived, count):
    """Have all other programs of `count` come before? The counter `arrived` goes back to zero then."""
    # One thread speaks for its program: the others have written, and read, before.
    tl.debug_barrier()
    last = tl.atomic_add(arrived, 1, sem="acq_rel") == count - 1
    if last:
        tl.store(arrived, 0)
    return last

"""How a launch begins while the one before it ends: programmatic dependent launch, from Hopper on.

A step is some hundred launches, each of which would wait until the last is done and its memory is written.
Launched early, its programs are there by then, and may have asked for weights, which nobody writes. All that
another launch writes, or reads and this one overwrites, comes behind `wait_for_previous`: who waits for the
one before waits for all, since that one waited too.
"""

from functools import cache

import torch
import triton
import triton.language as tl


def early(device: torch.device) -> dict[str, bool]:
    """Options of a launch on `device` whose kernel waits by itself."""
    return {"EARLY": True, "launch_pdl": True} if _knows_how(device) else {"EARLY": False}


@cache
def _knows_how(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def wait_for_previous(EARLY: tl.constexpr):
    """Let the next launch begin, and go on when the previous one is done."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def fetch(lines, last, SIZE: tl.constexpr):
    """Ask for the first `SIZE` bytes of each line, none behind `last`, to come to the second-level cache."""
    place = lines.to(tl.int64, bitcast=True)[:, None] + tl.arange(0, SIZE // 128)[None, :] * 128
    place = tl.minimum(place, last.to(tl.int64, bitcast=True))
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [place], dtype=tl.int32, is_pure=False, pack=1
    )

"""Compile every kernel for a card that need not be here, and print what each takes of it.

    python -m benchmarks.compile_kernels [--capability 90] [--only PATTERN]

The launchers run as they stand, on tensors of the CPU, but each launch only compiles: what is compiled is
what a card would get. What each takes is read from its machine code with the NVIDIA tool that Triton carries.
"""

import argparse
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)
# Triton 3.9 warns where nothing is said; this is what it and its forerunners do then.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from benchmarks import kernel_cases
from stentor.layers.triton import launches

READER = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class AbsentCard:
    """A driver of a card that can be compiled for but not launched on."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(capability: int, rows: int | None, only: str) -> Iterator[tuple[str, Any]]:
    """Each kernel of each case, once per specialisation: (case, what Triton compiled)."""
    driver.set_active(AbsentCard(capability))
    launches._knows_how = lambda device: capability >= 90
    seen: dict[int, Any] = {}
    JITFunction.__getitem__ = lambda self, grid: lambda *args, **options: note(self, grid, args, options)

    def note(function: Any, grid: Any, args: Any, options: Any) -> None:
        kernel = function.run(*args, grid=grid, warmup=True, **options)
        if id(kernel) not in seen:
            seen[id(kernel)] = kernel
            fresh.append(kernel)

    for case in kernel_cases.all_cases("cpu", rows):
        if not re.search(only, case.name):
            continue
        fresh: list[Any] = []
        case.run()
        for kernel in fresh:
            yield case.name, kernel


def usage(kernel: Any) -> dict[str, int]:
    """Registers of a thread, bytes of its stack (what was spilled), bytes of shared memory, warps."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        command = [READER, "--dump-resource-usage", cubin.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = {name.lower(): int(number) for name, number in re.findall(r"(REG|STACK):(\d+)", said)}
    return numbers | {"shared": kernel.metadata.shared, "warps": kernel.metadata.num_warps}


def main() -> None:
    """Print one line per kernel and specialisation."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--capability", type=int, default=90, help="80 Ampere, 90 Hopper, 100 Blackwell")
    arguments.add_argument("--rows", type=int, help="only at this number of rows")
    arguments.add_argument("--only", default="", help="only cases whose names match this expression")
    chosen = arguments.parse_args()
    capability = chosen.capability
    print(f"Triton {triton.__version__}, torch {torch.__version__}, compute capability {capability}")
    print(f"{'kernel':26}{'first used by':24}{'registers':>10}{'stack':>9}{'shared':>9}{'warps':>7}")
    for case, kernel in compiled(capability, chosen.rows, chosen.only):
        used = usage(kernel)
        numbers = f"{used['reg']:10}{used['stack']:9}{used['shared']:9}{used['warps']:7}"
        print(f"{kernel.metadata.name:26}{case:24}{numbers}", flush=True)


if __name__ == "__main__":
    main()

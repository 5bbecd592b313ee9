"""Where compiled kernels are kept from one start to the next, and how many a start had to compile."""

import importlib.util
import os
from pathlib import Path
from typing import Any


def keep_in(folder: str) -> None:
    """Let all that compiles in this process from now on keep its results below `folder` ('': as it is).

    It must be called before Triton is imported.
    """
    if not folder:
        return
    root = Path(folder).expanduser().absolute()
    for variable, place in (
        ("TRITON_CACHE_DIR", "triton"),
        ("TORCHINDUCTOR_CACHE_DIR", "inductor"),
        ("CUDA_CACHE_PATH", "driver"),
        ("FLASHINFER_WORKSPACE_BASE", "flashinfer"),
    ):
        os.environ[variable] = str(root / place)


class Compilations:
    """Counts what Triton compiles, and does not find in its cache, within a `with` block."""

    def __init__(self) -> None:
        self.count = 0
        self._knobs: Any = None
        self._before: Any = None

    def __enter__(self) -> "Compilations":
        if importlib.util.find_spec("triton") is not None:
            from triton import knobs

            self._knobs, self._before = knobs.compilation, knobs.compilation.listener
            knobs.compilation.listener = self._heard
        return self

    def __exit__(self, *_: object) -> None:
        if self._knobs is not None:
            self._knobs.listener = self._before

    def _heard(self, *facts: Any, cache_hit: bool = False, **more: Any) -> None:
        self.count += not cache_hit
        if self._before is not None:
            self._before(*facts, cache_hit=cache_hit, **more)

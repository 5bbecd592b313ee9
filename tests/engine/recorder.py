"""A CUDA graph's stand-in on a CPU: it records operations on addresses, and does the same to them again."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stentor.engine.cuda_graph import Capture

# What waits for the device, or whose result has a size that only values tell: no graph can hold it.
FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal.", "item")


class Recorder(TorchDispatchMode):
    """Runs everything once and keeps it; stops what a graph could not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(part in str(func) for part in FORBIDDEN), func
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if "index" in str(func):
            assert all(tensor.dtype != torch.bool for tensor in tensors[1:]), func
        self.seen.append(f"{func} {[tuple(tensor.shape) for tensor in tensors]}")
        out = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """Every operation again, in order, on the memory of the first time: reads and writes go to it."""
        with torch.inference_mode():
            for func, args, kwargs, out in self._calls:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def capture_beside(*memory: torch.Tensor) -> Capture:
    """Like `cuda_graph.capture_on`: what is captured does not run, so this memory is as it was before."""

    def capture(rehearse: Callable[[], object], run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        rehearse()
        before = [tensor.clone() for tensor in memory]
        with torch.inference_mode(), Recorder() as recorder:
            result = run()
        for tensor, copy in zip(memory, before, strict=True):
            tensor.copy_(copy)
        return recorder.replay, result

    return capture

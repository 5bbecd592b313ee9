"""A step is a fixed sequence of operations on buffers that never move, with no look at a value."""

import gc
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stentor.engine.kv_cache import KVCache
from stentor.engine.model import Redraw
from stentor.engine.sampler import advance
from stentor.engine.state import BatchState, Status
from stentor.engine.step import DecodeStep
from stentor.layers.attention import SdpaBackend
from tests.engine.harness import make_lm
from tests.engine.recorder import Recorder
from tests.engine.test_model_runner import RECIPE, running

CANDIDATES = [0, 1, 64, 1026]
# Whether the step penalises, and what the model draws again.
MEMORIES = [(False, None), (True, None), (False, Redraw(7, 1)), (True, Redraw(7, 1))]


class Stage:
    """Five sequences under way, and the step on tensors, as a GPU runs it."""

    def __init__(self, redraw: Redraw | None = None) -> None:
        self.engine = running(redraw=redraw)
        self.runner = self.engine._runner
        self.state = self.runner._state
        cache = self.runner._cache
        self.cache = cache.data
        self.step = DecodeStep(self.runner._model, SdpaBackend(), cache, partial(advance))

    def watched(self, candidates: int, penalises: bool = False) -> list[str]:
        with Recorder() as recorder:
            self.step(self.state.rows(0, 5), 8, candidates, penalises)
        return recorder.seen


@pytest.mark.parametrize(("penalises", "redraw"), MEMORIES)
@pytest.mark.parametrize("candidates", CANDIDATES)
def test_two_steps_of_equal_shapes_are_the_same_operations_on_the_same_memory(
    candidates: int, penalises: bool, redraw: Redraw | None
) -> None:
    stage = Stage(redraw)
    before = stage.state.packed.data_ptr(), stage.cache.data_ptr()
    first = stage.watched(candidates, penalises)
    stage.state.status[1] = Status.STOP
    stage.state.countdown[2] = 3
    assert stage.watched(candidates, penalises) == first
    assert len(first) > 50
    assert (stage.state.packed.data_ptr(), stage.cache.data_ptr()) == before


def plain_tensors(tree: Any) -> list[torch.Tensor]:
    """Those with storage; oneDNN's packed weights have none."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor) and not leaf.is_mkldnn]


class Allocations(TorchDispatchMode):
    """The memory that operations ask for, in order, and what of it is still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self._made: list[weakref.ref[torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {tensor.untyped_storage().data_ptr() for tensor in plain_tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in plain_tensors(out):
            if tensor.untyped_storage().data_ptr() not in given:
                self.sizes.append(tensor.untyped_storage().nbytes())
                self._made.append(weakref.ref(tensor))
        return out

    def alive(self) -> int:
        """How many of the tensors that were made are still held by somebody."""
        return sum(made() is not None for made in self._made)


@pytest.mark.parametrize(
    ("candidates", "redraw"), [*((size, None) for size in CANDIDATES), (64, Redraw(7, 1))]
)
def test_a_step_asks_for_the_same_memory_each_time_and_keeps_none_of_it(
    candidates: int, redraw: Redraw | None
) -> None:
    """The law that a captured graph needs, and as much as a CPU can show of it.

    Operations do make new tensors: while it is captured, CUDA's allocator takes them from the graph's own
    pool, and a replay allocates nothing. That holds if what a step asks for hangs on shapes alone, and if
    nothing that it made outlives it but the record that it returns: whatever did would be overwritten by the
    next replay.
    """
    seen = []
    for status in (Status.RUNNING, Status.STOP):
        stage = Stage(redraw)
        stage.state.status[1] = status
        with Allocations() as allocations:
            record = stage.step(stage.state.rows(0, 5), 8, candidates)
        # The reference of attention, which is never captured, keeps its mask until the next batch.
        del stage.step
        gc.collect()
        assert allocations.alive() == 1
        assert record.shape == (5, 9)
        del record
        assert allocations.alive() == 0
        seen.append(allocations.sizes)
    assert seen[0] == seen[1]
    assert len(seen[0]) > 50


@pytest.mark.parametrize(("penalises", "redraw"), MEMORIES)
@pytest.mark.parametrize("candidates", CANDIDATES)
def test_a_step_runs_where_no_value_can_be_read(
    candidates: int, penalises: bool, redraw: Redraw | None
) -> None:
    model = make_lm(RECIPE, device="meta", redraw=redraw)
    cache = KVCache(model.shape, 33, 16, model.device)
    state = BatchState.allocate(5, 8, 20, model.device)
    step = DecodeStep(model, SdpaBackend(), cache, advance)
    record = step(state, 8, candidates, penalises)
    assert record.shape == (5, 9)


@pytest.mark.parametrize(("penalises", "redraw"), MEMORIES)
@pytest.mark.parametrize("candidates", CANDIDATES)
def test_a_step_on_arrays_is_the_step_on_tensors(
    candidates: int, penalises: bool, redraw: Redraw | None
) -> None:
    tensors, arrays = Stage(redraw), Stage(redraw)
    for _ in range(3):
        record = tensors.step(tensors.state.rows(0, 5), 8, candidates, penalises)
        other = arrays.runner._step(arrays.state.rows(0, 5), 8, candidates, penalises)
        assert record.tolist() == other.tolist()
        assert torch.equal(tensors.state.packed, arrays.state.packed)
        assert torch.equal(tensors.cache, arrays.cache)


@pytest.mark.parametrize(("penalises", "redraw"), MEMORIES)
def test_idle_and_ended_rows_change_nothing_but_where_they_stand(
    penalises: bool, redraw: Redraw | None
) -> None:
    stage, padded = Stage(redraw), Stage(redraw)
    for each in (stage, padded):
        each.state.status[3] = Status.STOP
    record = stage.step(stage.state.rows(0, 5), 8, 1026, penalises)
    assert torch.equal(padded.step(padded.state.rows(0, 9), 8, 1026, penalises)[:5], record)
    assert torch.equal(stage.state.packed, padded.state.packed)
    assert torch.equal(stage.cache[:, 1:], padded.cache[:, 1:])
    assert record[3].tolist() == [-1] * 8 + [Status.STOP]

"""A step is a fixed sequence of operations on buffers that never move, with no look at a value."""

import pytest
import torch

from stentor.engine.kv_cache import KVCache
from stentor.engine.sampler import advance
from stentor.engine.state import BatchState, Status
from stentor.engine.step import DecodeStep
from stentor.layers.attention import SdpaBackend
from tests.engine.harness import make_lm
from tests.engine.recorder import Recorder
from tests.engine.test_model_runner import RECIPE, running

CANDIDATES = [0, 1, 64, 1026]


class Stage:
    """Five sequences under way, and the step on tensors, as a GPU runs it."""

    def __init__(self) -> None:
        self.engine = running()
        self.runner = self.engine._runner
        self.state = self.runner._state
        cache = self.runner._cache
        self.cache = cache.data
        self.step = DecodeStep(self.runner._model, SdpaBackend(), cache, advance, on_arrays=False)

    def watched(self, candidates: int, penalises: bool = False) -> list[str]:
        with Recorder() as recorder:
            self.step(self.state.rows(0, 5), 8, candidates, penalises)
        return recorder.seen


@pytest.mark.parametrize("penalises", [False, True])
@pytest.mark.parametrize("candidates", CANDIDATES)
def test_two_steps_of_equal_shapes_are_the_same_operations_on_the_same_memory(
    candidates: int, penalises: bool
) -> None:
    stage = Stage()
    before = stage.state.packed.data_ptr(), stage.cache.data_ptr()
    first = stage.watched(candidates, penalises)
    stage.state.status[1] = Status.STOP
    stage.state.countdown[2] = 3
    assert stage.watched(candidates, penalises) == first
    assert len(first) > 50
    assert (stage.state.packed.data_ptr(), stage.cache.data_ptr()) == before


@pytest.mark.parametrize("penalises", [False, True])
@pytest.mark.parametrize("candidates", CANDIDATES)
def test_a_step_runs_where_no_value_can_be_read(candidates: int, penalises: bool) -> None:
    model = make_lm(RECIPE, device="meta")
    cache = KVCache(model.shape, 33, 16, model.device)
    state = BatchState.allocate(5, 8, 20, model.device)
    step = DecodeStep(model, SdpaBackend(), cache, advance, on_arrays=False)
    record = step(state, 8, candidates, penalises)
    assert record.shape == (5, 9)


@pytest.mark.parametrize("penalises", [False, True])
@pytest.mark.parametrize("candidates", CANDIDATES)
def test_a_step_on_arrays_is_the_step_on_tensors(candidates: int, penalises: bool) -> None:
    tensors, arrays = Stage(), Stage()
    for _ in range(3):
        record = tensors.step(tensors.state.rows(0, 5), 8, candidates, penalises)
        other = arrays.runner._step(arrays.state.rows(0, 5), 8, candidates, penalises)
        assert record.tolist() == other.tolist()
        assert torch.equal(tensors.state.packed, arrays.state.packed)
        assert torch.equal(tensors.cache, arrays.cache)


@pytest.mark.parametrize("penalises", [False, True])
def test_idle_and_ended_rows_change_nothing_but_where_they_stand(penalises: bool) -> None:
    stage, padded = Stage(), Stage()
    for each in (stage, padded):
        each.state.status[3] = Status.STOP
    record = stage.step(stage.state.rows(0, 5), 8, 1026, penalises)
    assert torch.equal(padded.step(padded.state.rows(0, 9), 8, 1026, penalises)[:5], record)
    assert torch.equal(stage.state.packed, padded.state.packed)
    assert torch.equal(stage.cache[:, 1:], padded.cache[:, 1:])
    assert record[3].tolist() == [-1] * 8 + [Status.STOP]

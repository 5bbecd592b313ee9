"""A step is a fixed sequence of operations on buffers that never move, with no look at a value."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stentor.config import EngineConfig
from stentor.engine.engine import Engine
from stentor.engine.kv_cache import KVCache
from stentor.engine.model_runner import ModelRunner
from stentor.engine.state import BatchState, Status
from stentor.layers.attention import SdpaBackend
from tests.checkpoints import Recipe
from tests.engine.harness import make_lm, make_sequence
from tests.engine.oracle import random_prompt
from tests.engine.test_engine import SAMPLINGS

RECIPE = Recipe(seed=5, hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, with_codec=False)
CANDIDATES = [0, 1, 64, 1026]


def running(num_sequences: int = 5, **settings: Any) -> Engine:
    """An engine some steps into as many sequences, each sampled in another way."""
    engine = Engine(make_lm(RECIPE), EngineConfig(**({"max_context": 256} | settings)))
    for i in range(num_sequences):
        engine.add(make_sequence(f"s{i}", random_prompt(RECIPE, i, text=5 + 9 * i), SAMPLINGS[i], 100))
    for _ in range(4):
        engine.step()
    return engine


def snapshot(runner: ModelRunner) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in runner._state._tensors()]


def addresses(runner: ModelRunner) -> list[int]:
    return [tensor.data_ptr() for tensor in (*runner._state._tensors(), runner._cache.data)]


class Watch(TorchDispatchMode):
    """Notes every operation with the shapes it gets, and stops those whose result hangs on values."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal.", "item")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(part in str(func) for part in self.FORBIDDEN), func
        tensors = [a for a in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        if "index" in str(func):
            assert all(tensor.dtype != torch.bool for tensor in tensors[1:]), func
        self.seen.append(f"{func} {[tuple(tensor.shape) for tensor in tensors]}")
        return func(*args, **(kwargs or {}))


def watched_step(runner: ModelRunner, candidates: int) -> list[str]:
    with torch.inference_mode(), Watch() as watch:
        runner._decode(5, 8, candidates)
    return watch.seen


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_two_steps_of_equal_shapes_are_the_same_operations_on_the_same_memory(candidates: int) -> None:
    engine = running()
    runner = engine._runner
    before = addresses(runner)
    first = watched_step(runner, candidates)
    runner._state.status[1] = Status.STOP
    runner._state.countdown[2] = 3
    assert watched_step(runner, candidates) == first
    assert len(first) > 50
    assert addresses(runner) == before


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_a_step_runs_where_no_value_can_be_read(candidates: int) -> None:
    model = make_lm(RECIPE, device="meta")
    cache = KVCache(model.shape, 33, 16, model.device)
    runner = ModelRunner(model, SdpaBackend(), cache, max_running=8, max_context=256, block_size=16)
    with torch.inference_mode():
        record = runner._decode(5, 8, candidates)
    assert record.shape == (5, 9)


def test_idle_rows_change_nothing_but_the_block_of_nobody() -> None:
    engine, padded = running(), running()
    record = engine._runner._decode(5, 8, 1026)
    assert torch.equal(padded._runner._decode(9, 8, 1026)[:5], record)
    for alone, with_idle in zip(snapshot(engine._runner), snapshot(padded._runner), strict=True):
        assert torch.equal(alone, with_idle)
    assert torch.equal(engine._runner._cache.data[:, 1:], padded._runner._cache.data[:, 1:])


@pytest.mark.parametrize("block_size", [1, 5, 8, 16, 48, 64, 100])
def test_tables_are_wide_enough_and_never_wider_than_there_is(
    block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = running(1, block_size=block_size)._runner
    asked: list[int] = []

    def note(size: int, num_blocks: int, candidates: int) -> torch.Tensor:
        asked.append(num_blocks)
        return torch.zeros(size, 9)

    monkeypatch.setattr(runner, "_decode", note)
    for longest in range(256):
        runner.decode(1, longest)
        assert asked[-1] * block_size > longest
        assert asked[-1] * block_size % 64 == 0
    assert max(asked) <= runner._state.block_tables.shape[1]
    assert asked == sorted(asked)


def test_a_saved_sequence_comes_back_elsewhere_as_it_was() -> None:
    engine = running()
    runner, sequence = engine._runner, engine._scheduler.running[2]
    row, blocks = runner._state.copy_row(2), list(sequence.blocks)
    numbers = runner._cache.copy_out(blocks)
    removal = engine._scheduler.remove(sequence)
    runner.save(removal)
    runner.release(removal)
    others = [list(other.blocks) for other in engine._scheduler.running]
    sequence.blocks = [engine._blocks._take() for _ in range(len(blocks) + 1)][::-1]
    runner.restore(sequence, 4)
    for name in BatchState.__dataclass_fields__:
        if name != "block_tables":
            assert torch.equal(getattr(runner._state, name)[4], getattr(row, name)[0])
    assert torch.equal(runner._cache.copy_out(sequence.blocks[: len(blocks)]), numbers)
    assert runner._state.block_tables[4, : len(sequence.blocks)].tolist() == sequence.blocks
    assert sequence.saved is None
    assert not {block for held in others for block in held} & set(sequence.blocks)


def test_the_work_of_the_sampler_follows_who_runs() -> None:
    engine = running()
    assert engine._runner._candidates == 1026
    for name in ("s1", "s3"):
        engine.abort(name)
    assert engine._runner._candidates == 64
    for name in ("s2", "s4"):
        engine.abort(name)
    assert engine._runner._candidates == 1

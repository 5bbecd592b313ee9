"""The runner asks for what the batch needs, and moves sequences about as they are."""

from typing import Any

import pytest
import torch

from stentor.config import EngineConfig
from stentor.engine.engine import Engine
from stentor.engine.model import Redraw
from stentor.engine.state import BatchState
from tests.checkpoints import Recipe
from tests.engine.harness import make_lm, make_sequence
from tests.engine.oracle import random_prompt
from tests.engine.test_engine import SAMPLINGS

RECIPE = Recipe(seed=5, hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, with_codec=False)


def running(num_sequences: int = 5, redraw: Redraw | None = None, **settings: Any) -> Engine:
    """An engine some steps into as many sequences, each sampled in another way."""
    engine = Engine(make_lm(RECIPE, redraw=redraw), EngineConfig(**({"max_context": 256} | settings)))
    for i in range(num_sequences):
        engine.add(make_sequence(f"s{i}", random_prompt(RECIPE, i, text=5 + 9 * i), SAMPLINGS[i], 100))
    for _ in range(4):
        engine.step()
    return engine


@pytest.mark.parametrize("block_size", [1, 5, 8, 16, 48, 64, 100])
def test_tables_are_wide_enough_and_never_wider_than_there_is(
    block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = running(1, block_size=block_size)._runner
    asked: list[int] = []

    def note(state: BatchState, num_blocks: int, candidates: int, penalises: bool) -> torch.Tensor:
        asked.append(num_blocks)
        return torch.zeros(1, 9)

    monkeypatch.setattr(runner, "_step", note)
    for longest in range(256):
        runner.decode(0, 1, longest)
        assert asked[-1] * block_size > longest
        assert asked[-1] * block_size % 64 == 0
    assert max(asked) <= runner._state.block_tables.shape[1]
    assert asked == sorted(asked)


def test_a_saved_sequence_comes_back_elsewhere_as_it_was() -> None:
    engine = running()
    runner, sequence = engine._runner, engine._scheduler.running[2]
    row = BatchState.over(runner._state.copy_row(2), 8)
    blocks = list(sequence.blocks)
    numbers = runner._cache.copy_out(blocks)
    removal = engine._scheduler.remove(sequence)
    runner.save(removal)
    runner.release(removal)
    others = [list(other.blocks) for other in engine._scheduler.running]
    sequence.blocks = [engine._blocks._take() for _ in range(len(blocks) + 1)][::-1]
    sequence.slot = 4
    runner.restore(sequence)
    for name in BatchState.__dataclass_fields__:
        if name not in ("packed", "block_tables"):
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

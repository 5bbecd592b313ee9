"""The kernel draws the reference's codes, on fresh scores, and moves every row on as the reference does."""

from dataclasses import replace

import pytest
import torch

from stentor.engine import sampler
from stentor.engine.model import LMShape
from stentor.engine.state import BatchState, Status
from stentor.request import SamplingParams
from tests.engine.oracle import NUM_CODEBOOKS, VOCAB
from tests.engine.test_sampler import MIXTURE, SHAPE, make_state
from tests.layers.triton.interpreted import DEVICE, randn

pytest.importorskip("stentor.layers.triton.sampling")


# The interpreter takes its time over each step of a sort: few codes where their number is not the question.
FEW = replace(SHAPE, codebook_size=130, begin_code=128, end_code=129)
FEWEST = replace(SHAPE, codebook_size=34, begin_code=32, end_code=33)


def assert_steps_are_the_references(
    logits: torch.Tensor, expected: BatchState, candidates: int, shape: LMShape = SHAPE, steps: int = 2
) -> None:
    actual = BatchState.over(expected.packed.to(DEVICE, copy=True), NUM_CODEBOOKS)
    for _ in range(steps):  # The counters of the drawn codes must be back at zero.
        told = sampler.advance(logits.cpu(), expected, shape, candidates)
        assert torch.equal(sampler.fused_advance(logits, actual, shape, candidates).cpu(), told)
        assert torch.equal(actual.packed.cpu(), expected.packed)
        logits = logits.flip(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_are_those_of_the_reference(dtype: torch.dtype) -> None:
    # bfloat16 scores are full of ties, also at the edges of the cuts.
    spread = torch.tensor([0.05, 1.0, 4.0], device=DEVICE).repeat(3)[:NUM_CODEBOOKS, None]
    logits = (randn(len(MIXTURE), NUM_CODEBOOKS, FEW.codebook_size) * spread).to(dtype)
    state, _ = make_state(MIXTURE, list(range(0, 70, 7)))
    state.top_k.clamp_(max=FEW.codebook_size)
    state.ramp.fill_(NUM_CODEBOOKS)
    assert_steps_are_the_references(logits, state, FEW.codebook_size, FEW)


def test_noise_is_that_of_the_reference_where_nothing_else_decides() -> None:
    state, _ = make_state([MIXTURE[1]] * 2, [1, 9_000])
    state.ramp.fill_(NUM_CODEBOOKS)
    assert_steps_are_the_references(torch.zeros(2, NUM_CODEBOOKS, VOCAB, device=DEVICE), state, 0)


def states(size: int) -> BatchState:
    """Rows at any point of the pattern: opening, within, winding down, ended, idle, near every bound."""
    state, _ = make_state([SamplingParams(0.0 if i % 3 else 0.9, 0.9, 40, i) for i in range(size)])
    state.ramp.copy_(torch.randint(0, NUM_CODEBOOKS + 1, (size,)))
    state.countdown.copy_(torch.randint(-1, 7, (size,)).where(state.ramp == NUM_CODEBOOKS, -1))
    state.status.copy_(torch.randint(0, 5, (size,)).where(torch.rand(size) < 0.3, Status.RUNNING))
    state.step.copy_(torch.randint(0, 40, (size,)))
    state.max_rows.copy_(state.step + torch.randint(1, 4, (size,)))
    state.guard_rows.copy_(state.step + torch.randint(1, 4, (size,)))
    state.last_rows.copy_(torch.randint(0, FEWEST.codebook_size, (size, NUM_CODEBOOKS)))
    state.top_k.clamp_(max=FEWEST.codebook_size)
    return state


def test_rows_in_every_state_move_on_as_those_of_the_reference() -> None:
    logits = randn(24, NUM_CODEBOOKS, FEWEST.codebook_size)
    logits[::4, 0, FEWEST.end_code] = 20.0
    assert_steps_are_the_references(logits, states(24), FEWEST.codebook_size, FEWEST, steps=1)

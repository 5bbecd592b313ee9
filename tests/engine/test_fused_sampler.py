"""The fused step of the sampler moves every row as the reference does, whatever state it is in."""

import pytest
import torch

from stentor.engine import sampler
from stentor.engine.state import BatchState, Status
from stentor.request import SamplingParams
from tests.engine.oracle import END, NUM_CODEBOOKS, VOCAB
from tests.engine.test_sampler import SHAPE, make_state
from tests.layers.triton.interpreted import DEVICE

fused = pytest.importorskip("stentor.engine.fused_sampler")


def states(size: int) -> BatchState:
    """Rows at any point of the pattern: opening, within, winding down, ended, idle, near every bound."""
    state, _ = make_state([SamplingParams(0.0 if i % 3 else 0.9, 0.9, 40, i) for i in range(size)])
    state.ramp.copy_(torch.randint(0, NUM_CODEBOOKS + 1, (size,)))
    state.countdown.copy_(torch.randint(-1, 7, (size,)).where(state.ramp == NUM_CODEBOOKS, -1))
    state.status.copy_(torch.randint(0, 5, (size,)).where(torch.rand(size) < 0.3, Status.RUNNING))
    state.step.copy_(torch.randint(0, 40, (size,)))
    state.max_rows.copy_(state.step + torch.randint(1, 4, (size,)))
    state.guard_rows.copy_(state.step + torch.randint(1, 4, (size,)))
    state.last_rows.copy_(torch.randint(0, VOCAB, (size, NUM_CODEBOOKS)))
    return state


def test_steps_of_every_state_equal_those_of_the_reference() -> None:
    expected = states(24)
    actual = BatchState.over(expected.packed.to(DEVICE, copy=True), NUM_CODEBOOKS)
    for _ in range(3):  # The counters of the drawn codes must be back at zero.
        logits = torch.randn(24, NUM_CODEBOOKS, VOCAB)
        logits[::4, 0, END] = 20.0
        told = sampler.advance(logits, expected, SHAPE, VOCAB)
        assert torch.equal(fused.advance(logits.to(DEVICE), actual, SHAPE, VOCAB).cpu(), told)
        assert torch.equal(actual.packed.cpu(), expected.packed)

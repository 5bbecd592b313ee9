"""The sampler's step in one launch on a GPU; the codes are those of `engine.sampler`."""

from torch import Tensor

from stentor.engine.model import LMShape
from stentor.engine.state import BatchState
from stentor.layers.triton.sampling import sample_and_advance


def advance(logits: Tensor, state: BatchState, shape: LMShape, candidates: int) -> Tensor:
    """See `engine.sampler.advance`; all codes are ranked, so `candidates` does not matter."""
    draw = (state.temperature, state.top_p, state.top_k)
    moves = (state.last_rows, state.positions, state.status, state.step, state.ramp, state.countdown)
    machine = (*moves, state.max_rows, state.guard_rows)
    return sample_and_advance(logits, draw, state.noise_key, machine, shape.begin_code, shape.end_code)

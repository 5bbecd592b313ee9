"""The sampler's step in two launches on a GPU; the codes are those of `engine.sampler`."""

from torch import Tensor

from stentor.engine.model import LMShape
from stentor.engine.state import BatchState
from stentor.layers.triton.sampling import advance_rows, sample


def advance(logits: Tensor, state: BatchState, shape: LMShape, candidates: int) -> Tensor:
    """See `engine.sampler.advance`; all codes are ranked, so `candidates` does not matter."""
    draw = (state.temperature, state.top_p, state.top_k)
    codes = sample(logits, draw, state.noise_key, state.step)
    return move_on(codes, state, shape)


def move_on(codes: Tensor, state: BatchState, shape: LMShape) -> Tensor:
    """The part of `advance` behind the draw, for drawn codes [batch, num_codebooks]."""
    machine = (state.last_rows, state.positions, state.status, state.step, state.ramp, state.countdown)
    return advance_rows(codes, (*machine, state.max_rows, state.guard_rows), shape.begin_code, shape.end_code)

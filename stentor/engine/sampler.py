"""From scores to the next rows: sampling and the state machine of the delay pattern, for a batch at once.

Everything here is a fixed sequence of operations on fixed shapes: nothing looks at a value on the host, so
that a step can be captured as a graph. On a CPU the same lines run over NumPy's arrays (`engine.arrays`).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stentor.engine.arrays import Values, cast, count, fill, library, pick
from stentor.engine.model import LMShape
from stentor.engine.noise import gumbel
from stentor.engine.repetition import redraw
from stentor.engine.state import BatchState, Status
from stentor.layers.kernels import fuses
from stentor.request import SamplingParams

_GREEDY_TEMPERATURE = 1e-5
# A cut looks at one of these numbers of best codes, or at all: each is another shape of the work.
_CANDIDATES = (64, 256)
_CODE_BITS = 16
_MAX_FLOAT32 = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Draw:
    """How one request's codes are drawn, as the device reads it.

    Greedy is a cut to the best code at temperature 1; without a cut `top_k` is the codebook's size and
    `top_p` infinite. `candidates` is how many of the best codes it must look at, 0 if it looks at all and
    ranks none. A `repetition_penalty` of 1 is none (`engine.repetition`).
    """

    temperature: float
    top_p: float
    top_k: int
    candidates: int
    repetition_penalty: float = 1.0

    @staticmethod
    def of(sampling: SamplingParams, codebook_size: int) -> "Draw":
        """A row is greedy when its temperature is at most 1e-5 or its top_k is 1."""
        temperature, penalty = sampling.temperature or 0.0, sampling.repetition_penalty or 1.0
        if temperature <= _GREEDY_TEMPERATURE or sampling.top_k == 1:
            return Draw(1.0, math.inf, 1, 1, penalty)
        top_k = min(sampling.top_k or codebook_size, codebook_size)
        top_p = math.inf if sampling.top_p is None or sampling.top_p >= 1 else sampling.top_p
        enough = [size for size in _CANDIDATES if top_k <= size <= codebook_size]
        candidates = enough[0] if enough else codebook_size
        if top_k == codebook_size and top_p == math.inf:
            candidates = 0
        return Draw(min(temperature, _MAX_FLOAT32), top_p, top_k, candidates, penalty)


def most_candidates(draws: Iterable[Draw], codebook_size: int) -> int:
    """The candidates of a batch; those that look at all codes must have them ranked where others cut."""
    wanted = {draw.candidates for draw in draws}
    if 0 in wanted and len(wanted) > 1:
        return codebook_size
    return max(wanted, default=1)


def sample(logits: Tensor, state: BatchState, candidates: int, first: int = 0) -> Values:
    """Draw one code per codebook, from that of number `first` on.

    In this order: temperature, the top_k best codes (of equal ones the lower), the smallest set of the
    renormalised rest that reaches top_p, then Gumbel-max with the noise of
    (seed, step * num_codebooks + codebook, code). What a row draws does not depend on `candidates`.

    Args:
        logits: [batch, codebooks, codebook_size], float32 or bfloat16.
        state: the batch's rows; arrays let all but the ranking run on arrays.
        candidates: `most_candidates` of the rows.

    Returns:
        int64 [batch, codebooks], of the state's kind.
    """
    if candidates == 1:
        return _like(logits.argmax(-1), state)
    temperature, top_k, top_p = (
        values[:, None, None] for values in (state.temperature, state.top_k, state.top_p)
    )
    codebook = first + count(logits.shape[1], state.step, "int32")[:, None]
    position = cast(state.step, "int32")[:, None, None] * state.last_rows.shape[1] + codebook
    key = state.noise_key[:, None, None]
    if candidates == 0:
        codes = count(logits.shape[2], state.step, "int32")
        return (_like(logits.float(), state) / temperature + gumbel(key, position, codes)).argmax(-1)
    values, codes = _best(logits, candidates, state)
    scores = values / temperature
    array_library = library(scores)
    outside = count(candidates, scores) >= top_k
    weights = fill(array_library.exp(scores - scores[..., :1]), outside, 0)
    mass = array_library.cumsum(weights, -1)
    outside = outside | (mass - weights >= top_p * mass[..., -1:])
    drawn = fill(scores + gumbel(key, position, codes), outside, -math.inf).argmax(-1)
    return cast(pick(codes, drawn), "int64")


def advance(logits: Tensor, state: BatchState, shape: LMShape, candidates: int) -> Values:
    """Draw the next row of each sequence by its scores, move its state on, and report: see `move`."""
    codes = sample(logits, state, candidates)
    if shape.redraw is not None:
        codes = redraw(codes, _like(logits.float(), state), state, shape)
    return move(codes, state, shape)


def move(codes: Values, state: BatchState, shape: LMShape) -> Values:
    """Take the codes drawn, int64 [batch, num_codebooks], as next rows, move each state on, and report.

    While the pattern opens (the first num_codebooks rows) codebook c begins c rows late and an end code is
    not heeded; the end code on codebook 0 starts a wind-down of num_codebooks - 2 rows, in which the end
    codes of training stand on the codebooks that have ended; the row that completes the last frame ends it.
    Without a delay (`LMShape.nested`) the pattern is open after one row, and the end code ends at once.

    Returns:
        int64 [batch, num_codebooks + 1], of the state's kind: the row and the status after it. Rows of ended
        or idle sequences are frozen and read -1.
    """
    num_codebooks, array_library = shape.num_codebooks, library(codes)
    lag = count(num_codebooks, codes) * (not shape.nested)
    opening = state.ramp < shape.span
    closing = ~opening & (state.countdown >= 0)
    codes = fill(codes, opening[:, None] & (lag > state.ramp[:, None]), shape.begin_code)
    ended_codebooks = num_codebooks - 1 - state.countdown
    codes = fill(codes, closing[:, None] & (lag <= ended_codebooks[:, None]), shape.end_code)
    ends = ~(opening | closing) & (codes[:, 0] == shape.end_code)

    countdown = array_library.where(closing, state.countdown - 1, state.countdown)
    countdown = fill(countdown, ends, max(shape.span - 2, 0))
    step = state.step + 1
    status = fill(state.status, (step >= state.guard_rows) & (countdown < 0), Status.RUNAWAY)
    status = fill(status, step >= state.max_rows, Status.LENGTH)
    status = fill(status, countdown == 0, Status.STOP)

    frozen = state.status != Status.RUNNING
    codes = fill(codes, frozen[:, None], -1)
    status = array_library.where(frozen, state.status, status)
    record = array_library.concatenate((codes, status[:, None]), axis=1)
    moved = {
        "last_rows": array_library.where(frozen[:, None], state.last_rows, codes),
        "ramp": array_library.where(frozen, state.ramp, state.ramp + opening),
        "countdown": array_library.where(frozen, state.countdown, countdown),
        "step": array_library.where(frozen, state.step, step),
        # One that ended with this row stands one place further, and stays there, as one that is frozen does.
        "positions": state.positions + ~frozen,
        "status": status,
    }
    # Only when all of it is there: a row that was moved in part could not be drawn again.
    for name, values in moved.items():
        getattr(state, name)[...] = values
    return record


def fused_advance(logits: Tensor, state: BatchState, shape: LMShape, candidates: int) -> Values:
    """`advance` in one launch on a GPU; it ranks all codes, whatever `candidates` says."""
    from stentor.layers.triton.sampling import sample_and_advance

    return sample_and_advance(logits, state.packed, shape.begin_code, shape.end_code)


# What `advance` is: logits, state, shape, candidates; the report.
Advance = Callable[[Tensor, BatchState, LMShape, int], Values]


def choose_advance(kernels: str, device: torch.device, shape: LMShape) -> Advance:
    """The form of `advance` that the setting `kernels` means on `device`; one launch draws once and all."""
    apart = shape.redraw is not None or shape.nested
    return fused_advance if fuses(kernels, device) and not apart else advance


def _like(values: Tensor, state: BatchState) -> Values:
    return values if isinstance(state.packed, Tensor) else values.numpy()


def _best(logits: Tensor, size: int, state: BatchState) -> tuple[Values, Values]:
    """The `size` best scores of each codebook, falling, float32, and their codes, int32; of equal ones the
    lower code first.

    Score and code are packed into one integer, so that no two are equal: the order is the same whatever the
    algorithm and the size. Two bytes of a bfloat16 score leave room for the code in half the space.
    """
    short = logits.dtype == torch.bfloat16
    narrow, wide = ("int16", "int32") if short else ("int32", "int64")
    bits = _like((logits if short else logits.float()).view(getattr(torch, narrow)), state)
    keys = cast(~_ordered(bits), wide)
    keys <<= _CODE_BITS
    keys |= count(logits.shape[-1], keys, wide)
    best = _smallest(keys, size)
    codes = cast(best & ((1 << _CODE_BITS) - 1), "int32")
    bits = cast(_ordered(cast(~(best >> _CODE_BITS), narrow)), "int32")
    if short:
        bits <<= _CODE_BITS
    return bits.view(library(bits).float32), codes


def _ordered(bits: Values) -> Values:
    """The bits of floating-point numbers as integers of the same order, and back."""
    width = 8 * bits.dtype.itemsize
    return ((bits >> (width - 1)) & ((1 << (width - 1)) - 1)) ^ bits


def _smallest(keys: Values, size: int) -> Values:
    """The `size` smallest along the last dimension, rising; the keys are used up."""
    if isinstance(keys, Tensor):
        return keys.topk(size, largest=False, sorted=True).values
    if size < keys.shape[-1]:
        keys.partition(size - 1, axis=-1)
    return np.sort(keys[..., :size], axis=-1)

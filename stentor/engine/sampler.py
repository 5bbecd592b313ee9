"""From scores to the next rows: sampling and the state machine of the delay pattern, for a batch at once.

Everything here is a fixed sequence of tensor operations on fixed shapes: nothing looks at a value on the
host, so that a step can be captured as a graph.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stentor.engine.model import LMShape
from stentor.engine.noise import gumbel
from stentor.engine.state import BatchState, Status
from stentor.layers.kernels import fuses
from stentor.request import SamplingParams

_GREEDY_TEMPERATURE = 1e-5
# A cut looks at a multiple of this many best codes, so that a request seldom changes the shape of the work.
_CANDIDATES_STEP = 64
_CODE_BITS = 16
_MAX_INT32 = 2**31 - 1
_MAX_FLOAT32 = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Draw:
    """How one request's codes are drawn, as the device reads it.

    Greedy is a cut to the best code at temperature 1; without a cut `top_k` is the codebook's size and
    `top_p` infinite. `candidates` is how many of the best codes it must look at, 0 if it looks at all and
    ranks none.
    """

    temperature: float
    top_p: float
    top_k: int
    candidates: int

    @staticmethod
    def of(sampling: SamplingParams, codebook_size: int) -> "Draw":
        """A row is greedy when its temperature is at most 1e-5 or its top_k is 1."""
        temperature = sampling.temperature or 0.0
        if temperature <= _GREEDY_TEMPERATURE or sampling.top_k == 1:
            return Draw(1.0, math.inf, 1, 1)
        top_k = min(sampling.top_k or codebook_size, codebook_size)
        top_p = math.inf if sampling.top_p is None or sampling.top_p >= 1 else sampling.top_p
        candidates = min(-(-top_k // _CANDIDATES_STEP) * _CANDIDATES_STEP, codebook_size)
        if top_k == codebook_size and top_p == math.inf:
            candidates = 0
        return Draw(min(temperature, _MAX_FLOAT32), top_p, top_k, candidates)


def most_candidates(draws: Iterable[Draw], codebook_size: int) -> int:
    """The candidates of a batch; those that look at all codes must have them ranked where others cut."""
    wanted = {draw.candidates for draw in draws}
    if 0 in wanted and len(wanted) > 1:
        return codebook_size
    return max(wanted, default=1)


def sample(logits: Tensor, state: BatchState, candidates: int) -> Tensor:
    """Draw one code per codebook.

    In this order: temperature, the top_k best codes (of equal ones the lower), the smallest set of the
    renormalised rest that reaches top_p, then Gumbel-max with the noise of
    (seed, step * num_codebooks + codebook, code). What a row draws does not depend on `candidates`.

    Args:
        logits: float32 [batch, num_codebooks, codebook_size].
        state: the batch's rows.
        candidates: `most_candidates` of the rows.

    Returns:
        int64 [batch, num_codebooks].
    """
    if candidates == 1:
        return logits.argmax(-1)
    temperature, top_k, top_p = (
        values[:, None, None] for values in (state.temperature, state.top_k, state.top_p)
    )
    codebook = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)[:, None]
    position = state.step[:, None, None].int() * logits.shape[1] + codebook
    key = state.noise_key[:, None, None]
    if candidates == 0:
        codes = torch.arange(logits.shape[2], dtype=torch.int32, device=logits.device)
        return (logits / temperature + gumbel(key, position, codes)).argmax(-1)
    values, codes = _best(logits, candidates)
    scores = values / temperature
    outside = torch.arange(candidates, device=logits.device) >= top_k
    weights = (scores - scores[..., :1]).exp_().masked_fill_(outside, 0)
    mass = weights.cumsum(-1)
    outside = outside | (mass - weights >= top_p * mass[..., -1:])
    drawn = (scores + gumbel(key, position, codes.int())).masked_fill_(outside, -torch.inf).argmax(-1)
    return codes.gather(-1, drawn[..., None])[..., 0]


def advance(logits: Tensor, state: BatchState, shape: LMShape, candidates: int) -> Tensor:
    """Draw the next row of each sequence, move its state on, and report.

    While the pattern opens (the first num_codebooks rows) codebook c begins c rows late and an end code is
    not heeded; the end code on codebook 0 starts a wind-down of num_codebooks - 2 rows, in which the end
    codes of training stand on the codebooks that have ended; the row that completes the last frame ends it.

    Returns:
        int64 [batch, num_codebooks + 1]: the row and the status after it. Rows of ended or idle sequences are
        frozen and read -1.
    """
    num_codebooks = shape.num_codebooks
    codes = sample(logits, state, candidates)
    codebook = torch.arange(num_codebooks, device=logits.device)
    opening = state.ramp < num_codebooks
    closing = ~opening & (state.countdown >= 0)
    codes = codes.masked_fill(opening[:, None] & (codebook > state.ramp[:, None]), shape.begin_code)
    ended_codebooks = num_codebooks - 1 - state.countdown
    codes = codes.masked_fill(closing[:, None] & (codebook <= ended_codebooks[:, None]), shape.end_code)
    ends = ~opening & ~closing & (codes[:, 0] == shape.end_code)

    countdown = torch.where(closing, state.countdown - 1, state.countdown)
    countdown = countdown.masked_fill(ends, num_codebooks - 2)
    step = state.step + 1
    status = torch.zeros_like(state.status)
    status = status.masked_fill((step >= state.guard_rows) & (countdown < 0), Status.RUNAWAY)
    status = status.masked_fill(step >= state.max_rows, Status.LENGTH)
    status = status.masked_fill(countdown == 0, Status.STOP)

    frozen = state.status != Status.RUNNING
    codes = codes.masked_fill(frozen[:, None], -1)
    status = torch.where(frozen, state.status, status)
    record = torch.cat((codes, status[:, None]), dim=1)
    torch.where(frozen[:, None], state.last_rows, codes, out=state.last_rows)
    torch.where(frozen, state.ramp, state.ramp + opening, out=state.ramp)
    torch.where(frozen, state.countdown, countdown, out=state.countdown)
    torch.where(frozen, state.step, step, out=state.step)
    state.status.copy_(status)
    return record


# What `advance` is: logits, state, shape, candidates; the report.
Advance = Callable[[Tensor, BatchState, LMShape, int], Tensor]


def choose_advance(kernels: str, device: torch.device) -> Advance:
    """`advance` itself, or its fused form where the setting `kernels` means that on `device`."""
    if not fuses(kernels, device):
        return advance
    from stentor.engine import fused_sampler

    return fused_sampler.advance


def _best(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best scores of each codebook, falling, and their codes; of equal ones the lower code first.

    Score and code are packed into one integer, so that no two are equal: the order is the same whatever the
    algorithm and the count.
    """
    code = torch.arange(logits.shape[-1], device=logits.device)
    falling = _ordered(logits.view(torch.int32)).bitwise_not_().long()
    best = _smallest(falling.bitwise_left_shift_(_CODE_BITS).bitwise_or_(code), count)
    values = _ordered(~(best >> _CODE_BITS).int()).view(torch.float32)
    return values, best & ((1 << _CODE_BITS) - 1)


def _ordered(bits: Tensor) -> Tensor:
    """The bits of float32 numbers as integers of the same order, and back."""
    return (bits >> 31).bitwise_and_(_MAX_INT32).bitwise_xor_(bits)


def _smallest(keys: Tensor, count: int) -> Tensor:
    if keys.device.type != "cpu":
        return keys.topk(count, largest=False, sorted=True).values
    # On a CPU, NumPy's vectorised sort takes a tenth of the time of PyTorch's.
    part = keys.numpy()
    if count < part.shape[-1]:
        part = np.partition(part, count - 1, axis=-1)[..., :count]
    return torch.from_numpy(np.sort(part, axis=-1))

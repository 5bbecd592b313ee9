"""From scores to the next rows: sampling, and the state machine of the delay pattern, for a whole batch at once.

Everything here is a fixed sequence of tensor operations on fixed shapes: nothing looks at a value on the host, so
that a step can be captured as a graph.
"""

import torch
from torch import Tensor

from stentor.engine.model import LMShape
from stentor.engine.noise import gumbel
from stentor.engine.state import BatchState, Status

GREEDY_TEMPERATURE = 1e-5


def sample(logits: Tensor, state: BatchState, candidates: int) -> Tensor:
    """Draw one code per codebook.

    A row is greedy when its temperature is at most 1e-5 or its top_k is 1. Otherwise: temperature, then top-k
    (values equal to the k-th stay), then the smallest set of the renormalised rest that reaches top_p (equals
    stay), then Gumbel-max with the noise of (seed, step * num_codebooks + codebook, code).

    Args:
        logits: float32 [batch, num_codebooks, codebook_size].
        state: the batch's rows.
        candidates: at least every row's top_k (the codebook's size where one has none); 0 if all rows are greedy.

    Returns:
        int64 [batch, num_codebooks].
    """
    best = logits.argmax(-1)
    if candidates == 0:
        return best
    values, codes = logits.topk(min(candidates, logits.shape[-1]), dim=-1)
    greedy = ((state.temperature <= GREEDY_TEMPERATURE) | (state.top_k == 1))[:, None]
    scaled = values / torch.where(greedy, 1.0, state.temperature[:, None])[..., None]
    top_k = torch.where(state.top_k > 0, state.top_k, values.shape[-1]).clamp(max=values.shape[-1])
    kth = scaled.gather(-1, (top_k - 1)[:, None, None].expand(-1, values.shape[1], 1))
    scaled = scaled.masked_fill(scaled < kth, -torch.inf)
    probabilities = scaled.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    inside = (before < state.top_p[:, None, None]).long().sum(-1, keepdim=True)
    last = probabilities.gather(-1, inside - 1)
    log_probabilities = probabilities.log().masked_fill(probabilities < last, -torch.inf)
    codebook = torch.arange(logits.shape[1], device=logits.device)
    position = state.step[:, None] * logits.shape[1] + codebook
    noise = gumbel(state.noise_key[:, None, None], position[..., None], codes)
    drawn = codes.gather(-1, (log_probabilities + noise).argmax(-1, keepdim=True))[..., 0]
    return torch.where(greedy, best, drawn)


def advance(logits: Tensor, state: BatchState, shape: LMShape, candidates: int) -> Tensor:
    """Draw the next row of each sequence, move its state on, and report.

    The machine of Higgs Audio v3: while the pattern opens (the first num_codebooks rows) codebook c begins c rows
    late and an end code is not heeded; the end code on codebook 0 starts a wind-down of num_codebooks - 2 rows, in which the
    end codes of training stand on the codebooks that have ended; the row that completes the last frame ends it.

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
    status = status.masked_fill(closing & (countdown <= 0), Status.STOP)

    frozen = state.status != Status.RUNNING
    codes = codes.masked_fill(frozen[:, None], -1)
    status = torch.where(frozen, state.status, status)
    record = torch.cat((codes, status[:, None]), dim=1)
    _keep(state.last_rows, codes, frozen[:, None])
    _keep(state.ramp, state.ramp + opening, frozen)
    _keep(state.countdown, countdown, frozen)
    _keep(state.step, step, frozen)
    state.status.copy_(status)
    return record


def _keep(target: Tensor, value: Tensor, frozen: Tensor) -> None:
    target.copy_(torch.where(frozen, target, value))

"""The sampler and the delay pattern's state machine: one launch for a step, the reference's codes.

What is drawn from what is written down in `engine/sampler.py`; this follows it operation by operation, in the
same widths. Only the order of one sum is its own, that of the weights before a top_p cut, so it is taken in
float64 and rounded where the reference rounds.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stentor.layers.triton.arrivals import counters, is_last
from stentor.layers.triton.launches import early, wait_for_previous

# The words of a state's row behind its codes, in the order of `engine.state.BatchState`.
_POSITION, _STATUS, _STEP, _RAMP, _COUNTDOWN, _MAX_ROWS, _GUARD_ROWS, _KEY, _TEMPERATURE, _TOP_P, _TOP_K = (
    tl.constexpr(place) for place in range(11)
)
_CODE_BITS = tl.constexpr(16)
_CODE_MASK = tl.constexpr(2**16 - 1)
# Any key of a code is smaller, of either width.
_LAST_KEY = tl.constexpr(2**62)
_LAST_SHORT_KEY = tl.constexpr(2**31 - 1)
# As in `engine/noise.py`.
_LARGEST_LOG = tl.constexpr(-(2.0**-32))
_SMALLEST_LOG = tl.constexpr(-1.7976931348623157e308)


def sample_and_advance(logits: Tensor, state: Tensor, begin_code: int, end_code: int) -> Tensor:
    """Draw the next rows and move the state machine on, as `engine.sampler.advance` does.

    Args:
        logits: [batch, num_codebooks, codebook_size].
        state: `engine.state.BatchState.packed`, int64 [batch, width], which is brought up to date.
        begin_code, end_code: of the delay pattern.

    Returns:
        int64 [batch, num_codebooks + 1]: the row and the status after it.
    """
    size, num_codebooks, codebook_size = logits.shape
    record = torch.empty((size, num_codebooks + 1), dtype=torch.int64, device=logits.device)
    block = triton.next_power_of_2(codebook_size)
    _sample[(size, num_codebooks)](
        logits.contiguous(), state, state.stride(0), record, counters(size, logits.device), begin_code,
        end_code, codebook_size, BLOCK=block, STAGES=block.bit_length() - 1,
        WIDTH=triton.next_power_of_2(num_codebooks), num_warps=8, **early(logits.device),
    )  # fmt: skip
    return record


@triton.jit
def _rotated(word, BITS: tl.constexpr):
    return (word << BITS) | (word >> (32 - BITS))


@triton.jit
def _mixed(h, word):
    word = _rotated(word * 0xCC9E2D51, 15) * 0x1B873593
    return _rotated(h ^ word, 13) * 5 + 0xE6546B64


@triton.jit
def _gumbel(key, position, code):
    h = _mixed(_mixed(key, position), code) ^ 16
    h = (h ^ (h >> 16)) * 0x85EBCA6B
    h = (h ^ (h >> 13)) * 0xC2B2AE35
    h = h ^ (h >> 16)
    uniform = h.to(tl.float64) / 4294967295.0
    # Never the logarithm of 0: it is infinite on a card, and a warning in the interpreter.
    logarithm = tl.log(tl.where(h == 0, 1.0, uniform))
    logarithm = tl.where(h == 0, _SMALLEST_LOG, tl.minimum(logarithm, _LARGEST_LOG))
    return -tl.log(-logarithm)


@triton.jit
def _ordered(bits, OTHERS: tl.constexpr):
    """The bits of numbers as integers of the same order, and back; `OTHERS` are all bits but the sign's."""
    return ((bits >> 31) & OTHERS) ^ bits


@triton.jit
def _sorted(key, rank, STAGES: tl.constexpr):
    """Rising keys, 2^STAGES of them (Batcher's bitonic network)."""
    for stage in range(1, STAGES + 1):
        for step in range(stage):
            stride = 1 << (stage - 1 - step)
            other = tl.gather(key, rank ^ stride, axis=0)
            takes_smaller = ((rank >> stage) & 1) == ((rank & stride) != 0).to(tl.int32)
            key = tl.where(takes_smaller, tl.minimum(key, other), tl.maximum(key, other))
    return key


@triton.jit
def _drawn(scores, temperature, limit, share, key, position, size, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    """One code: the best of the sorted scores with noise that neither cut excludes."""
    rank = tl.arange(0, BLOCK)
    inside = rank < size
    bits = tl.load(scores + rank, mask=inside, other=0.0).to(tl.float32).to(tl.int32, bitcast=True)
    if scores.dtype.element_ty == tl.bfloat16:
        # Half of the bits are empty: room for the code, and half the work.
        falling = ~_ordered(bits >> _CODE_BITS, 0x7FFF)
        packed = tl.where(inside, (falling << _CODE_BITS) | rank, _LAST_SHORT_KEY)
        packed = _sorted(packed, rank, STAGES)
        bits = _ordered(~(packed >> _CODE_BITS), 0x7FFF) << _CODE_BITS
    else:
        falling = (~_ordered(bits, 0x7FFFFFFF)).to(tl.int64)
        packed = _sorted(tl.where(inside, (falling << _CODE_BITS) | rank, _LAST_KEY), rank, STAGES)
        bits = _ordered((~(packed >> _CODE_BITS)).to(tl.int32), 0x7FFFFFFF)
    code, value = (packed & _CODE_MASK).to(tl.int32), bits.to(tl.float32, bitcast=True)
    value = tl.where(inside, tl.math.div_rn(value, temperature), float("-inf"))

    weight = tl.exp((value - tl.max(value, axis=0)).to(tl.float64)).to(tl.float32)
    weight = tl.where(rank < limit, weight, 0.0)
    mass = tl.cumsum(weight.to(tl.float64), axis=0).to(tl.float32)
    allowed = mass - weight < share * tl.max(mass, axis=0)
    allowed = allowed & (rank < limit) & inside

    noisy = value.to(tl.float64) + _gumbel(key, position, code.to(tl.uint32))
    drawn = tl.argmax(tl.where(allowed, noisy, float("-inf")), axis=0)
    return tl.sum(tl.where(rank == drawn, code, 0), axis=0).to(tl.int64)


@triton.jit
def _float(word):
    """A float32 is the lower half of its word."""
    return tl.load(word).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _sample(
    logits, state, state_stride, record, arrived, begin_code, end_code, codebook_size, BLOCK: tl.constexpr,
    STAGES: tl.constexpr, WIDTH: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    wait_for_previous(EARLY)
    row, codebook, num_codebooks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    codes = state + row * state_stride
    words, report = codes + num_codebooks, record + row * (num_codebooks + 1)
    key = tl.load(words + _KEY).to(tl.uint32)
    position = (tl.load(words + _STEP) * num_codebooks + codebook).to(tl.uint32)
    scores = logits + (row * num_codebooks + codebook) * codebook_size
    heat, share, limit = _float(words + _TEMPERATURE), _float(words + _TOP_P), tl.load(words + _TOP_K)
    code = _drawn(scores, heat, limit, share, key, position, codebook_size, BLOCK, STAGES)
    tl.store(report + codebook, code)
    # Whoever draws the last code of a row moves it on; no other reads what that changes any more.
    if is_last(arrived + row, num_codebooks):
        _advance(codes, words, report, begin_code, end_code, num_codebooks, WIDTH)


@triton.jit
def _advance(codes, words, report, begin_code, end_code, num_codebooks, BLOCK: tl.constexpr):
    codebook = tl.arange(0, BLOCK)
    inside = codebook < num_codebooks
    code = tl.load(report + codebook, mask=inside, other=0, cache_modifier=".cg")
    ramp, countdown = tl.load(words + _RAMP), tl.load(words + _COUNTDOWN)
    opening = ramp < num_codebooks
    closing = (countdown >= 0) & (ramp >= num_codebooks)
    code = tl.where(opening & (codebook > ramp), begin_code, code)
    code = tl.where(closing & (codebook <= num_codebooks - 1 - countdown), end_code, code)
    first = tl.sum(tl.where(codebook == 0, code, 0), axis=0)
    ends = (ramp >= num_codebooks) & (countdown < 0) & (first == end_code)

    countdown = tl.where(closing, countdown - 1, countdown)
    countdown = tl.where(ends, num_codebooks - 2, countdown)
    position, step = tl.load(words + _POSITION) + 1, tl.load(words + _STEP) + 1
    # The numbers of `engine.state.Status`: running 0, stop 1, length 2, runaway 3.
    status = tl.where((step >= tl.load(words + _GUARD_ROWS)) & (countdown < 0), 3, 0)
    status = tl.where(step >= tl.load(words + _MAX_ROWS), 2, status)
    status = tl.where(countdown == 0, 1, status).to(tl.int64)

    before = tl.load(words + _STATUS)
    # Every thread has read the words before one of them writes any.
    tl.debug_barrier()
    tl.store(report + codebook, tl.where(before != 0, -1, code), mask=inside)
    tl.store(report + num_codebooks, tl.where(before != 0, before, status))
    if before == 0:
        tl.store(codes + codebook, code, mask=inside)
        tl.store(words + _POSITION, position)
        tl.store(words + _STATUS, status)
        tl.store(words + _STEP, step)
        tl.store(words + _RAMP, ramp + opening.to(tl.int64))
        tl.store(words + _COUNTDOWN, countdown)

"""Convolutions over time as products of tensor cores, with all that lies between two of them, in one launch.

A program takes so many steps of so many output channels, and sums over blocks of input channels and, within
one, over taps. Bias, residual and the next Snake come on top. Its tile hangs on the filter alone, and no step
feels another: a signal's numbers are the same to the bit in any company, wherever a window begins.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from stentor.layers.convolution import SNAKE_EPSILON, Convolve, Filter, Signal
from stentor.layers.triton.launches import early, wait_for_previous

# So many channels are one tile, at most.
_MOST_COLUMNS = 128
# Shared memory for what a program loads ahead: a Hopper holds it twice, a smaller card once.
_LOADS_BYTES = 96 << 10


def tile_for(filter: Filter) -> dict[str, int]:
    """What fixes the order of a filter's sums, and so hangs on it alone: steps and channels of a program's
    result, input channels that it multiplies at once, its warps, and loads under way.
    """
    (outputs, inputs, _), itemsize = filter.weight.shape, filter.weight.itemsize
    columns = max(16, min(_MOST_COLUMNS, triton.next_power_of_2(outputs)))
    inner = max(16, min(128 // itemsize // filter.parts, triton.next_power_of_2(inputs)))
    # Of many channels there are few steps: smaller tiles, so that a short window keeps more of a card busy.
    many = max(inputs, outputs // filter.stride) >= 512
    steps = 64 if many else 256 if columns <= 32 and itemsize == 2 else 128
    stages = min(4, _LOADS_BYTES // ((steps + filter.parts * columns) * inner * itemsize))
    options = {"num_warps": 4 if many else 8, "num_stages": stages}
    return {"STEPS": steps, "COLUMNS": columns, "INNER": inner, **options}


def convolution(filter: Filter, then: Filter | None = None) -> Convolve:
    """See `Kernels.convolution`."""
    # What a unit keeps between its products must fit into registers: twice as much of exact float32.
    if then is None or len(filter.weight) * filter.parts <= _MOST_COLUMNS:
        return _Launch(filter, then)
    first, second = _Launch(filter), _Launch(then)
    return lambda signal: second(first(signal._replace(plain=None))._replace(plain=signal.plain))


class _Launch:
    """A filter as the kernel reads it, with a second one of one tap, if there is one, on top of its tile."""

    def __init__(self, filter: Filter, then: Filter | None = None) -> None:
        self._filter, self._last = filter, then or filter
        self._tile = tile = tile_for(filter)
        outputs, inputs, taps = filter.weight.shape
        missing = -outputs % tile["COLUMNS"]
        padded = F.pad(filter.weight, (0, 0, 0, -inputs % tile["INNER"], 0, missing))
        # In the order of the sum: [blocks, taps, parts, outputs, inner].
        blocks = padded.reshape(len(padded), -1, tile["INNER"], taps).permute(1, 3, 0, 2)
        second = None if then is None else then.split(F.pad(then.weight[:, :, 0], (0, missing, 0, missing)))
        # One float32 for each output.
        columns = [filter.bias, filter.alpha] + ([None, None] if then is None else [then.bias, then.alpha])
        bias, alpha, second_bias, second_alpha = (
            None if values is None else F.pad(values.float().repeat(outputs // len(values)), (0, missing))
            for values in columns
        )
        self._weights = filter.split(blocks), bias, alpha, second, second_bias, second_alpha

    def __call__(self, signal: Signal) -> Signal:
        filter, last, x = self._filter, self._last, signal.active
        (batch, time, _), (outputs, inputs, taps) = x.shape, filter.weight.shape
        shape, places = (batch, time * filter.stride, outputs // filter.stride), filter.outputs(time)
        assert signal.plain is None or signal.plain.shape == shape
        plain = x.new_empty(shape) if last.keeps_plain else None
        active = x.new_empty(shape, dtype=torch.float32 if last.alpha is None else x.dtype)
        tiles = triton.cdiv(outputs, self._tile["COLUMNS"])
        _convolve[(triton.cdiv(batch * places, self._tile["STEPS"]) * tiles,)](
            x, *self._weights, signal.plain, signal.lengths, plain, active, batch, time, places,
            signal.frame_steps, filter.dilation, filter.padding, TAPS=taps, INPUTS=inputs, OUTPUTS=outputs,
            TILES=tiles, STRIDE=filter.stride, EXCESS=filter.excess, EPSILON=SNAKE_EPSILON,
            PARTS=filter.parts, ROUNDS=filter.rounds, **self._tile, **early(x.device),
        )  # fmt: skip
        return Signal(plain, active, signal.lengths, signal.frame_steps * filter.stride)


@triton.jit
def _nearest(value):
    """The TensorFloat32 (10 bits of 23) that is next to a float32."""
    return ((value.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def _product(a, weights, total, SIZE: tl.constexpr, PARTS: tl.constexpr):
    """total + a w, w in parts that are SIZE apart: of two, float32 as three products of TensorFloat32."""
    w = tl.load(weights)
    if PARTS == 2:
        big = _nearest(a)
        total = tl.dot(big, tl.load(weights + SIZE), total, input_precision="tf32")
        total = tl.dot(a - big, w, total, input_precision="tf32")
        a = big
    return tl.dot(a, w, total, input_precision="tf32")


@triton.jit
def _activated(value, alpha, column, EPSILON: tl.constexpr, ROUNDS: tl.constexpr):
    """Snake of float32 [steps, columns], as the next product is to read it; sin²(u) to 3e-7 for |u| < 1000.

    Squared, a sine has the period pi, and is cheaper: what three steps (with Cephes' parts of pi) leave of u
    goes into SLEEF's polynomial for [-pi / 2, pi / 2].
    """
    rate = tl.load(alpha + column)
    u = value * rate[None, :]
    # The nearest whole number, for such numbers have no other bits: a card's own rounding is slow.
    turns = (u * 0.3183098861837907 + 12582912.0) - 12582912.0
    rest = u - turns * 3.140625
    rest -= turns * 9.6750259399414062e-4
    rest -= turns * 1.509957990978376e-7
    square = rest * rest
    odd = 2.6083159809786593e-6 * square - 1.981069071916863e-4
    odd = odd * square + 8.333078585565090e-3
    odd = odd * square - 1.6666659712791443e-1
    sine = odd * square * rest + rest
    # Where float32 holds no angle any more, it is some number that a sine could be.
    value += tl.minimum(sine * sine, 1.0) * (1.0 / (rate + EPSILON))[None, :]
    return _nearest(value) if ROUNDS else value


@triton.jit(
    do_not_specialize=["batch", "time", "places", "frame_steps", "dilation", "padding"],
    do_not_specialize_on_alignment=["lengths"],
)
def _convolve(
    x, weight, bias, alpha, second, second_bias, second_alpha, residual, lengths, plain, active, batch, time,
    places, frame_steps, dilation, padding, TAPS: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    TILES: tl.constexpr, STRIDE: tl.constexpr, EXCESS: tl.constexpr, EPSILON: tl.constexpr,
    PARTS: tl.constexpr, ROUNDS: tl.constexpr, STEPS: tl.constexpr, COLUMNS: tl.constexpr,
    INNER: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    wait_for_previous(EARLY)
    # The places of all signals stand behind one another; those of a program are counted from its first.
    first = tl.program_id(0) // TILES * STEPS
    begin, row = (first // places).to(tl.int64) * time + first % places, first + tl.arange(0, STEPS)
    column = tl.program_id(0) % TILES * COLUMNS + tl.arange(0, COLUMNS)
    k, real = tl.arange(0, INNER), row < batch * places
    signal, place = row // places, row % places
    end = tl.where(real, time, 0)
    if lengths is not None:
        end = tl.minimum(end, tl.load(lengths + signal, mask=real, other=0).to(tl.int32) * frame_steps)
    start = (signal - first // places) * time + place - first % places
    here = x + begin * INPUTS + (start[:, None] * INPUTS + k[None, :])
    weights = weight + column[None, :] * INNER + k[:, None]
    total = tl.zeros((STEPS, COLUMNS), tl.float32)
    for turn in range(TAPS * tl.cdiv(INPUTS, INNER)):
        shift, block = turn % TAPS * dilation - padding, turn // TAPS * INNER
        known = ((place + shift >= 0) & (place + shift < end))[:, None]
        if INPUTS % INNER:
            known = known & (block + k < INPUTS)[None, :]
        a = tl.load(here + (shift * INPUTS + block), mask=known, other=0.0)
        there = weights + turn * (PARTS * TILES * COLUMNS * INNER)
        total = _product(a, there, total, TILES * COLUMNS * INNER, PARTS)
    total += tl.load(bias + column)[None, :]
    if second is not None:
        inner = _activated(total, alpha, column, EPSILON, ROUNDS).to(x.dtype.element_ty)
        weights = second + column[None, :] * COLUMNS + tl.arange(0, COLUMNS)[:, None]
        total = _product(inner, weights, tl.zeros_like(total), COLUMNS * COLUMNS, PARTS)
        total += tl.load(second_bias + column)[None, :]
        alpha = second_alpha
    target = start[:, None] * OUTPUTS + column[None, :]
    origin = begin * OUTPUTS - EXCESS * (OUTPUTS // STRIDE)
    asked = real[:, None] & (column < OUTPUTS)[None, :]
    if EXCESS:
        step = place[:, None] * STRIDE - EXCESS + (column // (OUTPUTS // STRIDE))[None, :]
        asked = asked & (step >= 0) & (step < time * STRIDE)
    if residual is not None:
        total += tl.load(residual + origin + target, mask=asked, other=0.0).to(tl.float32)
    if plain is not None:
        tl.store(plain + origin + target, total.to(plain.dtype.element_ty), mask=asked)
    if alpha is not None:
        total = _activated(total, alpha, column, EPSILON, ROUNDS)
    tl.store(active + origin + target, total.to(active.dtype.element_ty), mask=asked)

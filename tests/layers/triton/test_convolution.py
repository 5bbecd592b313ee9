"""Our convolution equals the reference on fresh inputs, and a signal has the same bits in any company."""

import dataclasses

import pytest
import torch
from torch import Tensor

from stentor.layers.convolution import Filter, Signal
from stentor.layers.kernels import Kernels
from tests.layers.triton.interpreted import DEVICE, HALF, assert_close, randn

fused = pytest.importorskip("stentor.layers.triton.convolution")

# float32 in three products, in one (of inputs that a card cuts to 10 bits, the interpreter not), and 16 bits.
ARITHMETICS = [
    (torch.float32, False, 3e-6),
    (torch.float32, True, 1e-3),
    *((dtype, False, None) for dtype in {torch.float16, HALF}),
]


def make(
    channels: int, inputs: int, taps: int, dtype: torch.dtype, *, snake: bool = True, **more: object
) -> Filter:
    """A filter of random numbers whose sums are of the size of one."""
    stride = int(more.get("stride", 1))  # type: ignore[call-overload]
    weight = randn(stride * channels, inputs, taps, dtype=dtype, scale=(inputs * taps) ** -0.5)
    alpha = randn(channels).exp() if snake else None
    return Filter(weight, randn(channels).repeat(stride), alpha, **more)  # type: ignore[arg-type]


def exact(filter: Filter) -> Filter:
    """The same numbers, for a reference in float64."""
    wide = {name: getattr(filter, name) for name in ("weight", "bias", "alpha")}
    return dataclasses.replace(filter, **{k: None if v is None else v.double() for k, v in wide.items()})


def within(result: Tensor | None, ends: list[int]) -> Tensor:
    """What stands before the ends of the signals."""
    assert result is not None
    return torch.cat([signal[:end] for signal, end in zip(result, ends, strict=True)])


# Channels and inputs that fill a tile, several, and none; more steps than one tile, and fewer than a filter.
SHAPES = [
    {"channels": 32, "inputs": 32, "taps": 7, "dilation": 3},
    {"channels": 20, "inputs": 48, "taps": 7, "dilation": 9, "keeps_plain": True},
    {"channels": 150, "inputs": 12, "taps": 1, "keeps_plain": True},
    {"channels": 1, "inputs": 40, "taps": 7, "snake": False},
    {"channels": 16, "inputs": 160, "taps": 2, "stride": 3, "keeps_plain": True},
    {"channels": 6, "inputs": 24, "taps": 2, "stride": 5},
    {"channels": 40, "inputs": 16, "taps": 2, "stride": 8},
]


@pytest.mark.parametrize(("dtype", "rounds", "bound"), ARITHMETICS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("lengths", [None, (45, 7, 0)])
def test_a_filter_equals_the_reference(
    shape: dict[str, int],
    lengths: tuple[int, ...] | None,
    dtype: torch.dtype,
    rounds: bool,
    bound: float | None,
) -> None:
    time = 91
    filter = make(dtype=dtype, rounds_float32=rounds, **shape)  # type: ignore[arg-type]
    x = randn(3, time, shape["inputs"], dtype=dtype)
    given = None if lengths is None else torch.tensor(lengths, dtype=torch.int16, device=DEVICE)
    found = fused.convolution(filter)(Signal(None, x, given, 2))
    expected = Kernels().convolution(exact(filter))(Signal(None, x.double(), given, 2))
    assert found.frame_steps == expected.frame_steps
    ends = [filter.stride * min(time, 2 * length) for length in lengths or (time, time, time)]
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_close(within(ours, ends), within(theirs, ends), bound)
    assert found.active.dtype == (torch.float32 if filter.alpha is None else dtype)


# One launch, a tile that is not full, and two launches.
@pytest.mark.parametrize(("dtype", "rounds", "bound"), ARITHMETICS)
@pytest.mark.parametrize(("channels", "dilation"), [(32, 3), (24, 9), (144, 1)])
def test_a_residual_unit_equals_the_reference(
    channels: int, dilation: int, dtype: torch.dtype, rounds: bool, bound: float | None
) -> None:
    first = make(channels, channels, 7, dtype, dilation=dilation, rounds_float32=rounds)
    then = make(channels, channels, 1, dtype, keeps_plain=True, rounds_float32=rounds)
    plain, active = (randn(2, 40, channels, dtype=dtype) for _ in range(2))
    lengths = torch.tensor([40, 11], dtype=torch.int32, device=DEVICE)
    before = plain.clone(), active.clone()
    found = fused.convolution(first, then)(Signal(plain, active, lengths))
    wide = Signal(plain.double(), active.double(), lengths)
    expected = Kernels().convolution(exact(first), exact(then))(wide)
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert_close(within(ours, [40, 11]), within(theirs, [40, 11]), bound)
    assert torch.equal(before[0], plain)
    assert torch.equal(before[1], active)


@pytest.mark.parametrize(("dtype", "rounds"), [arithmetic[:2] for arithmetic in ARITHMETICS])
@pytest.mark.parametrize("channels", [24, 144])
def test_a_signal_has_the_same_bits_in_any_company_and_wherever_it_begins(
    channels: int, dtype: torch.dtype, rounds: bool
) -> None:
    first = make(channels, channels, 7, dtype, dilation=9, rounds_float32=rounds)
    then = make(channels, channels, 1, dtype, keeps_plain=True, rounds_float32=rounds)
    up = make(8, channels, 2, dtype, stride=3, rounds_float32=rounds)
    unit, upsample = fused.convolution(first, then), fused.convolution(up)
    plain, active = (randn(2, 150, channels, dtype=dtype) for _ in range(2))
    lengths = torch.tensor([149, 90], dtype=torch.int16, device=DEVICE)
    together = unit(Signal(plain, active, lengths))
    higher = upsample(together._replace(plain=None)).active
    for row, length in enumerate(lengths.tolist()):
        alone = unit(Signal(plain[row : row + 1, :length], active[row : row + 1, :length].contiguous()))
        for ours, theirs in zip(alone[:2], together[:2], strict=True):
            assert torch.equal(within(ours, [length]), within(theirs[row : row + 1], [length]))
        risen = upsample(alone._replace(plain=None)).active
        assert torch.equal(within(risen, [3 * length]), higher[row, : 3 * length])
    # From 40 steps on, with 27 of context on either side.
    window = unit(Signal(plain[1:2, 13:90].contiguous(), active[1:2, 13:90].contiguous()))
    assert torch.equal(window.active[0, 27:], together.active[1, 40:90])


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")
def test_what_leaves_the_range_of_float16_is_never_finite_again() -> None:
    filters = [make(8, 8, 7, torch.float16), make(1, 8, 7, torch.float16, snake=False)]
    x = randn(2, 40, 8, dtype=torch.float16)
    x[0, 20] = 65_000.0
    filters[0].weight.fill_(1.0)
    signal = Signal(None, x)
    for filter in filters:
        signal = fused.convolution(filter)(signal)
    finite = signal.active.isfinite()[..., 0]
    assert finite[1].all()
    assert not finite[0, 17:24].any()
    assert finite[0, :14].all()
    assert finite[0, 27:].all()


def test_the_sine_of_a_snake_is_exact_for_large_angles() -> None:
    angles = torch.linspace(-700, 700, 4001, device=DEVICE).view(1, -1, 1)
    filter = Filter(
        torch.ones(1, 1, 1, device=DEVICE), torch.zeros(1, device=DEVICE), torch.ones(1, device=DEVICE)
    )
    found = fused.convolution(filter)(Signal(None, angles)).active.double() - angles.double()
    torch.testing.assert_close(found, torch.sin(angles.double()).square(), rtol=0, atol=700 * 2**-23)


def test_a_tile_hangs_on_the_filter_alone_and_fits_into_a_card() -> None:
    for dtype in (torch.float32, torch.float16):
        for outputs, inputs in ((1024, 256), (96, 64), (512, 512), (12, 12), (1, 32)):
            tile = fused.tile_for(Filter(torch.empty(outputs, inputs, 7, dtype=dtype), torch.empty(outputs)))
            columns = (2 if dtype == torch.float32 else 1) * tile["COLUMNS"]
            loaded = (tile["STEPS"] + columns) * tile["INNER"] * dtype.itemsize
            assert tile["num_stages"] >= 2
            assert tile["num_stages"] * loaded <= 99 << 10

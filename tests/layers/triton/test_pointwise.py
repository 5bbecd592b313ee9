"""SwiGLU's gate, the code embedding and Snake equal the reference on fresh inputs."""

import pytest
import torch

from stentor.layers.kernels import EagerKernels
from stentor.layers.kernels.eager import silu_mul
from tests.layers.triton.interpreted import DEVICE, DTYPES, HALF, assert_close, randn

pointwise = pytest.importorskip("stentor.layers.triton.pointwise")


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize(("rows", "size"), [(1, 1024), (4, 1500), (3, 40)])
def test_a_gate_equals_the_reference(rows: int, size: int, dtype: torch.dtype) -> None:
    gate_up = randn(rows, 2 * size, dtype=dtype, scale=4.0)
    assert_close(pointwise.silu_mul(gate_up), silu_mul(gate_up.double()))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize("size", [2560, 48])
def test_the_sum_of_codes_equals_the_reference(size: int, dtype: torch.dtype) -> None:
    table = randn(8 * 26, size, dtype=dtype)
    offsets = torch.arange(8, device=DEVICE) * 26
    prompt = torch.randint(-1, 26, (5, 9), device=DEVICE)
    rows = prompt[:, 1:]
    expected = EagerKernels().embed_codes(rows, offsets, table.double())
    assert_close(pointwise.embed_codes(rows, offsets, table), expected)


# Channels that fill a tile, several and none; windows with and without edges.
SIGNALS = [
    (32, 70, (-9, 88)),
    (130, 20, (0, 20)),
    (6, 40, (-1, 41)),
    (1, 9, (3, 200)),
    (256, 5, (-3, 4)),
    (12, 9, (8, 4)),
]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize(("channels", "time", "window"), SIGNALS)
def test_snake_equals_the_reference(
    channels: int, time: int, window: tuple[int, int], dtype: torch.dtype
) -> None:
    x = randn(3, time, channels, dtype=dtype, scale=3.0)
    scale, bias = randn(channels, dtype=dtype), randn(channels, dtype=dtype)
    lengths = torch.tensor([time, time // 2, 0], dtype=torch.int32, device=DEVICE)
    before = x.clone()
    for given in ((), (scale,), (None, bias), (scale, bias, lengths), (scale, None, lengths, window)):
        reference = [
            values.double() if torch.is_tensor(values) and values.is_floating_point() else values
            for values in given
        ]
        found = pointwise.snake(x, *given)
        assert_close(found, EagerKernels().snake(x.double(), *reference))
        assert found.is_contiguous()
    assert torch.equal(x, before)


def test_a_signal_gives_the_same_bits_in_any_company_and_window() -> None:
    x, scale = randn(4, 90, 48, dtype=HALF), randn(48, dtype=HALF)
    lengths = torch.tensor([90, 31, 64, 1], dtype=torch.int32, device=DEVICE)
    whole = pointwise.snake(x, scale, None, lengths, (-5, 100))
    for i, length in enumerate(lengths.tolist()):
        alone = pointwise.snake(x[i : i + 1, :length], scale)
        assert torch.equal(whole[i, 5 : 5 + length], alone[0])
        assert not whole[i, :5].any()
        assert not whole[i, 5 + length :].any()


def test_a_signal_is_read_where_it_lies() -> None:
    x, scale = randn(2, 70, 3 * 16), randn(16)
    inner = x.view(2, 210, 16).narrow(1, 2, 200)
    assert_close(pointwise.snake(inner, scale), EagerKernels().snake(inner.double(), scale.double()))
    turned = randn(2, 16, 50).transpose(1, 2)
    assert_close(pointwise.snake(turned, scale), EagerKernels().snake(turned.double(), scale.double()))


def test_the_sine_of_a_snake_is_exact_for_large_angles() -> None:
    angles = torch.linspace(-700, 700, 4001, device=DEVICE)
    found = pointwise.snake(angles.view(1, -1, 1))[0, :, 0].double() - angles.double()
    expected = torch.sin(angles.double()).square()
    torch.testing.assert_close(found, expected, rtol=0, atol=700 * 2**-23)

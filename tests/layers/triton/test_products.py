"""Products of few rows equal the plain ones on fresh inputs, and no row feels its company."""

import pytest
import torch

from stentor.layers.kernels import rms_norm, silu_mul
from stentor.layers.linear import Norm
from stentor.layers.quantization import quantize, restore
from stentor.layers.triton.tiles import Tile
from tests.layers.triton.interpreted import DEVICE, DTYPES, HALF, assert_close, randn

products = pytest.importorskip("stentor.layers.triton.products")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 8, 17])
@pytest.mark.parametrize(("inner", "outer"), [(768, 100), (200, 64), (256, 130)])
def test_a_product_equals_the_plain_one(rows: int, inner: int, outer: int, dtype: torch.dtype) -> None:
    x, weight = randn(rows, inner, dtype=dtype), randn(outer, inner, dtype=dtype, scale=inner**-0.5)
    product = products.SkinnyProduct(weight)
    for _ in range(2):  # The counters of a split product must be back at zero.
        assert_close(product(x), x.double() @ weight.double().T)


def test_a_wide_product_is_split_and_a_tall_one_is_not() -> None:
    assert products.SkinnyProduct(torch.zeros(64, 2560))._splits > 1
    assert products.SkinnyProduct(torch.zeros(64 * 264, 256))._splits == 1


def test_a_row_gives_the_same_bits_among_others() -> None:
    x, weight = randn(16, 1024, dtype=HALF), randn(96, 1024, dtype=HALF)
    product = products.SkinnyProduct(weight)
    whole = product(x)
    for size in (2, 3, 8):
        assert torch.equal(product(x[:size]), whole[:size])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inner", "size"), [(768, 100), (200, 64), (256, 130)])
def test_a_gated_product_is_the_product_and_swiglu(inner: int, size: int, dtype: torch.dtype) -> None:
    x, weight = randn(5, inner, dtype=dtype), randn(2 * size, inner, dtype=dtype, scale=inner**-0.5)
    product = products.SkinnyProduct(weight, gated=True)
    for _ in range(2):
        assert_close(product(x), silu_mul(x.double() @ weight.double().T))
    assert torch.equal(product(x[:2]), product(x)[:2])


def test_a_gated_product_of_rounded_weights_scales_both_halves() -> None:
    x, weight = randn(3, 512, dtype=HALF), randn(192, 512, dtype=HALF, scale=512**-0.5)
    for scheme in ("int8", "int4"):
        kept = quantize(weight, scheme)
        scale = kept.scale if scheme == "int4" else kept.scale[:, 0]
        gated = products.SkinnyProduct(kept.values, scale, gated=True)
        assert_close(gated(x), silu_mul(x.double() @ restore(kept, torch.float64).T))


LONE = [Tile(8, 64, 3, 2, 2), Tile(2, 128, 1, 1, 3), Tile(16, 256, 300, 4, 2)]


@pytest.mark.parametrize("lone", LONE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [False, True])
def test_a_lone_row_is_the_product_of_its_norm_plus_what_is_added(
    gated: bool, dtype: torch.dtype, lone: Tile
) -> None:
    x, weight = randn(1, 200, dtype=dtype), randn(38, 200, dtype=dtype, scale=0.1)
    plus, norm = randn(1, 19 if gated else 38, dtype=dtype), Norm(randn(200, dtype=dtype), 1e-3)
    scale = torch.rand(38, device=DEVICE)
    normed = rms_norm(x.double(), norm.weight.double(), norm.eps)

    def expected(inputs: torch.Tensor, scales: torch.Tensor | float) -> torch.Tensor:
        y = inputs @ weight.double().T * scales
        return silu_mul(y) if gated else y

    bare = products.SkinnyProduct(weight, gated=gated, lone=lone)
    assert_close(bare(x), expected(x.double(), 1.0))
    assert_close(bare(x, plus), plus.double() + expected(x.double(), 1.0))
    whole = products.SkinnyProduct(weight, scale, gated=gated, norm=norm, lone=lone)
    assert_close(whole(x), expected(normed, scale.double()))


def test_several_rows_take_their_norm_and_what_is_added_too() -> None:
    x, weight, plus = randn(3, 256), randn(100, 256, scale=0.1), randn(3, 100)
    norm = Norm(randn(256), 1e-3)
    expected = plus.double() + rms_norm(x, *norm).double() @ weight.double().T
    assert_close(products.SkinnyProduct(weight, norm=norm)(x, plus), expected)


@pytest.mark.parametrize("tile", [Tile(32, 64, 8, 2, 2), Tile(128, 128, 64, 8, 3), Tile(16, 256, 1, 1, 1)])
def test_every_tile_gives_the_product(tile: Tile) -> None:
    x, weight = randn(4, 640, dtype=HALF), randn(200, 640, dtype=HALF, scale=640**-0.5)
    assert_close(products.SkinnyProduct(weight, tile=tile)(x), x.double() @ weight.double().T)


def test_int8_and_its_scales_equal_the_restored_weight() -> None:
    x, scale = randn(3, 512, dtype=HALF), torch.rand(96, device=DEVICE) / 100
    weight = torch.randint(-127, 128, (96, 512), dtype=torch.int8, device=DEVICE)
    expected = x.double() @ (weight.double() * scale.double()[:, None]).T
    product = products.SkinnyProduct(weight, scale, lone=LONE[0])
    assert_close(product(x), expected)
    assert_close(product(x[:1]), expected[:1])


def test_float8_and_its_scales_equal_the_restored_weight() -> None:
    x, scale = randn(3, 512, dtype=HALF), torch.rand(96, device=DEVICE) / 100
    weight = randn(96, 512, scale=20.0).to(torch.float8_e4m3fn)
    expected = x.double() @ (weight.double() * scale.double()[:, None]).T
    product = products.SkinnyProduct(weight, scale, lone=LONE[0])
    assert_close(product(x), expected)
    assert_close(product(x[:1]), expected[:1])


def test_int4_and_its_groups_equal_the_restored_weight() -> None:
    x, scale = randn(3, 512, dtype=HALF), torch.rand(96, 4, device=DEVICE) / 10
    numbers = torch.randint(0, 16, (96, 4, 128), dtype=torch.uint8, device=DEVICE)
    packed = numbers[..., :64] | (numbers[..., 64:] << 4)
    restored = (numbers.double() - 8) * scale.double()[..., None]
    expected = x.double() @ restored.view(96, 512).T
    assert_close(products.SkinnyProduct(packed.view(96, 256), scale)(x), expected)

"""Quantised weights are near, small, and their products those of the restored weight."""

from typing import Any

import pytest
import torch

from stentor.errors import ConfigError
from stentor.layers.linear import Linear
from stentor.layers.quantization import (
    choose_scheme,
    float8_product,
    make_product,
    quantize,
    restore,
    restored,
    round_rows,
)

SCHEMES = ("int8", "fp8", "int4")
SIZES = {"int8": 1.02, "fp8": 1.02, "int4": 0.54}


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_weight_is_rounded_to_the_nearest_that_can_be_said_and_kept_small(scheme: str) -> None:
    # Rows of very different sizes: each has its scale.
    weight = torch.randn(40, 512) * torch.logspace(-3, 3, 40)[:, None]
    kept = quantize(weight, scheme)
    off = (restore(kept, torch.float32) - weight).abs()
    step = kept.scale.repeat_interleave(512 // kept.scale.shape[1], dim=1)
    # float8 has three bits behind the point, and equal steps below its smallest exponent.
    most = torch.maximum(weight.abs() / 16, step / 512) if scheme == "fp8" else step / 2
    assert (off <= most * 1.001).all()
    assert kept.values.nbytes + kept.scale.nbytes < SIZES[scheme] * weight.numel()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_can_be_said_is_said_exactly_and_zero_stays_zero(scheme: str) -> None:
    weight = torch.zeros(3, 256)
    largest = {"int8": 127, "fp8": 448, "int4": 7}[scheme]
    weight[1, :5] = torch.tensor([largest, -largest, 1, -1, 2])
    assert torch.equal(restore(quantize(weight, scheme), torch.float32), weight)


@pytest.mark.parametrize("inner", [256, 100, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_on_a_cpu_is_the_product_of_the_restored_weight(dtype: torch.dtype, inner: int) -> None:
    x, weight = torch.randn(9, inner).to(dtype), torch.randn(70, inner).to(dtype)
    expected = x.double() @ restore(quantize(weight, "int8"), torch.float64).T
    assert error(make_product(weight, "int8")(x), expected) < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inner", "outer"), [(48, 128), (256, 512), (768, 257)])
def test_a_row_of_int8_gives_the_same_bits_in_any_company(dtype: torch.dtype, inner: int, outer: int) -> None:
    x, product = torch.randn(70, inner).to(dtype), make_product(torch.randn(outer, inner).to(dtype), "int8")
    whole = product(x)
    for size in (1, 2, 3, 4, 5, 7, 16, 17, 33, 64, 65):
        for start in (0, 70 - size):
            assert torch.equal(product(x[start : start + size]), whole[start : start + size])


def test_float8_rounds_both_sides_and_stays_near() -> None:
    x, weight = torch.randn(20, 256).bfloat16() * 50, torch.randn(64, 256).bfloat16()
    product = float8_product(quantize(weight, "fp8"), round_rows)
    assert error(product(x), x.double() @ weight.double().T) < 0.05
    rounded, scale = round_rows(x)
    assert error(rounded.double() * scale, x) < 0.03
    assert rounded.float().abs().amax(-1).tolist() == [448.0] * 20


def test_a_weight_is_restored_for_many_rows() -> None:
    weight, x = quantize(torch.randn(24, 128), "int8"), torch.randn(5, 128)
    torch.testing.assert_close(restored(weight)(x), x @ restore(weight, torch.float32).T)


def test_no_quantisation_is_the_plain_product() -> None:
    assert isinstance(make_product(torch.randn(4, 8), "none"), Linear)


def test_what_cannot_be_had_is_refused_with_what_can() -> None:
    for scheme in ("fp8", "int4"):
        with pytest.raises(ConfigError, match=f"--quantization {scheme} needs a GPU; a CPU has 'int8'"):
            make_product(torch.randn(8, 128), scheme)
    with pytest.raises(ConfigError, match="int8 does not go with --dtype float64: use none"):
        make_product(torch.randn(8, 128).double(), "int8")
    with pytest.raises(ConfigError, match="multiple of 128 columns, this model has 96: use int8"):
        quantize(torch.randn(8, 96), "int4")


@pytest.mark.parametrize(
    ("name", "device", "dtype", "scheme"),
    [
        ("auto", "cpu", torch.bfloat16, "int8"),
        ("auto", "cpu", torch.float32, "none"),
        ("auto", "cuda", torch.bfloat16, "none"),
        ("none", "cpu", torch.bfloat16, "none"),
        ("fp8", "cuda", torch.bfloat16, "fp8"),
    ],
)
def test_auto_is_int8_for_bfloat16_on_a_cpu(name: Any, device: str, dtype: torch.dtype, scheme: str) -> None:
    assert choose_scheme(name, torch.device(device), dtype) == scheme

"""A row of a product does not feel the other rows."""

import pytest
import torch
import torch.nn.functional as F

from stentor.layers.linear import Linear

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random_pair(rows: int, inner: int, outer: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(inner)
    x = torch.randn(rows, inner, generator=generator).to(dtype)
    return x, (torch.randn(outer, inner, generator=generator) / inner**0.5).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(("inner", "outer"), [(48, 128), (33, 65), (256, 512), (2560, 96)])
def test_a_row_gives_the_same_bits_in_any_company(
    dtype: torch.dtype, packs: bool, inner: int, outer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packs:
        monkeypatch.setattr("stentor.layers.linear.packs", lambda weight: False)
    x, weight = random_pair(70, inner, outer, dtype)
    linear = Linear(weight)
    whole = linear(x)
    for size in (1, 2, 3, 4, 5, 7, 16, 17, 33, 64, 65):
        for start in (0, 70 - size):
            assert torch.equal(linear(x[start : start + size]), whole[start : start + size])


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_the_product_is_that_of_the_plain_kernel(dtype: torch.dtype) -> None:
    x, weight = random_pair(9, 64, 40, dtype)
    tolerance = 2e-2 if dtype.itemsize == 2 else 1e-5
    torch.testing.assert_close(Linear(weight)(x), F.linear(x, weight), rtol=tolerance, atol=tolerance)


def test_rows_of_a_larger_matrix_may_stand_apart() -> None:
    x, weight = random_pair(12, 64, 40, torch.float32)
    linear = Linear(weight[::2])
    assert torch.equal(linear(x[::3]), linear(x[::3].contiguous()))

"""Norm, rotation and the write into the cache in one kernel equal the reference on fresh inputs."""

import pytest
import torch

from stentor.layers.context import Place
from stentor.layers.kernels import Kernels
from stentor.layers.linear import Norm
from stentor.layers.rotary import RotaryTable
from tests.layers.triton.interpreted import DEVICE, DTYPES, assert_close, randn

heads = pytest.importorskip("stentor.layers.triton.heads")


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize(("num_heads", "kv_heads", "dim"), [(4, 2, 64), (32, 8, 128), (6, 3, 12)])
def test_heads_equal_the_reference_and_fill_their_slots_only(
    num_heads: int, kv_heads: int, dim: int, dtype: torch.dtype, normed: bool
) -> None:
    positions = torch.tensor([3, 90, 0, 17, 4000], device=DEVICE)
    slots = torch.tensor([9, 2, 31, 14, 20], device=DEVICE)
    turn = RotaryTable(dim, 4096, 1e6, dtype, torch.device(DEVICE)).at(positions)
    qkv = randn(5, num_heads + 2 * kv_heads, dim, dtype=dtype, scale=3.0)
    weight = randn(num_heads + kv_heads, dim, dtype=dtype)
    norm, exact_norm = (Norm(weight, 1e-6), Norm(weight.double(), 1e-6)) if normed else (None, None)
    cache = randn(4, 8, 2 * kv_heads, dim, dtype=dtype)
    expected_cache, given = cache.clone().double(), qkv.clone().double()
    exact = (turn[0].double(), turn[1].double())
    expected = Kernels().place_heads(given, exact_norm, exact, Place(expected_cache, slots))
    queries = heads.place_heads(qkv, norm, turn, Place(cache, slots))
    assert_close(queries, expected)
    flat, expected_flat = cache.flatten(0, 1), expected_cache.flatten(0, 1)
    assert_close(flat[slots], expected_flat[slots])
    others = torch.ones(len(flat), dtype=torch.bool, device=DEVICE)
    others[slots] = False
    assert torch.equal(flat[others].double(), expected_flat[others])


def test_values_go_to_the_cache_as_they_are() -> None:
    qkv, cache = randn(1, 8, 16), randn(2, 4, 4, 16)
    given = qkv.clone()
    turn = RotaryTable(16, 8, 1e4, torch.float32, torch.device(DEVICE)).at(torch.tensor([7], device=DEVICE))
    heads.place_heads(qkv, Norm(randn(6, 16), 1e-6), turn, Place(cache, torch.tensor([5], device=DEVICE)))
    assert torch.equal(cache.flatten(0, 1)[5, 2:], given[0, 6:])

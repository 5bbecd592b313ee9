"""The reference kernels say what their formulas say, and touch nothing else."""

import torch

from stentor.layers.context import Place
from stentor.layers.kernels import Kernels, silu_mul
from stentor.layers.linear import Linear, Norm
from stentor.layers.quantization import quantize, restore
from stentor.layers.rotary import RotaryTable, rotate

KERNELS = Kernels()


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_norm_comes_before_the_product_and_a_residual_behind_it() -> None:
    x, plus, weight, square = randn(5, 48), randn(5, 48, seed=1), randn(48, seed=2), randn(48, 48, seed=3)
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-2).sqrt() * weight
    for norm, expected in ((Norm(weight, 1e-2), normed), (None, x)):
        torch.testing.assert_close(KERNELS.linear(square, norm)(x), expected @ square.T)
        torch.testing.assert_close(KERNELS.head(square, norm)(x), expected @ square.T)
        torch.testing.assert_close(KERNELS.gated(square, norm)(x), silu_mul(expected @ square.T))
    torch.testing.assert_close(KERNELS.residual(square)(x, plus.clone()), plus + x @ square.T)
    rounded = Kernels("int8")
    x, plus, square = x.float(), plus.float(), square.float()
    assert torch.equal(rounded.residual(square)(x, plus.clone()), plus + rounded.linear(square)(x))


def test_weights_are_kept_as_asked_for() -> None:
    weight, x = randn(24, 64).float(), randn(5, 64, seed=1).float()
    assert isinstance(KERNELS.linear(weight), Linear)
    rounded = restore(quantize(weight, "int8"), torch.float32)
    assert (x @ rounded.T - x @ weight.T).abs().max() > 1e-2
    for product in (Kernels("int8").linear(weight), Kernels("int8").head(weight)):
        torch.testing.assert_close(product(x), x @ rounded.T, atol=1e-4, rtol=1e-4)
    assert isinstance(KERNELS.head(weight), Linear)


def test_the_first_half_gates_the_second() -> None:
    gate_up = randn(3, 20)
    gate, up = gate_up[:, :10], gate_up[:, 10:]
    expected = gate * gate.sigmoid() * up
    torch.testing.assert_close(silu_mul(gate_up), expected)
    weight, x = randn(20, 6), randn(3, 6)
    torch.testing.assert_close(KERNELS.gated(weight)(x), silu_mul(KERNELS.linear(weight)(x)))


def test_a_row_of_codes_is_the_sum_of_its_entries() -> None:
    table, rows = randn(24, 6), torch.tensor([[0, 7, 3], [-1, 2, -1]])
    embedded = KERNELS.embed_codes(rows, torch.tensor([0, 8, 16]), table)
    torch.testing.assert_close(embedded[0], table[0] + table[15] + table[19])
    torch.testing.assert_close(embedded[1], table[0] + table[10] + table[16])


def test_heads_are_normed_rotated_and_put_into_their_slots_only() -> None:
    heads, kv_heads, dim = 4, 2, 12
    qkv, norm = randn(3, heads + 2 * kv_heads, dim), randn(heads + kv_heads, dim, seed=1)
    turn = RotaryTable(dim, 50, 1e4, torch.float64, torch.device("cpu")).at(torch.tensor([4, 40, 5]))
    cache, slots = randn(4, 5, 2 * kv_heads, dim, seed=2), torch.tensor([7, 19, 3])
    before, given = cache.clone().flatten(0, 1), qkv.clone()
    q = KERNELS.place_heads(qkv, Norm(norm, 1e-2), turn, Place(cache, slots))
    qk = given[:, : heads + kv_heads]
    normed = qk / (qk.square().mean(-1, keepdim=True) + 1e-2).sqrt() * norm
    turned = rotate(normed, *turn)
    torch.testing.assert_close(q, turned[:, :heads])
    before[slots] = torch.cat((turned[:, heads:], given[:, heads + kv_heads :]), dim=1)
    torch.testing.assert_close(cache.flatten(0, 1), before)


def test_heads_of_a_family_without_norms_are_only_rotated() -> None:
    qkv, slots = randn(3, 8, 12), torch.tensor([7, 19, 3])
    turn = RotaryTable(12, 50, 1e4, torch.float64, torch.device("cpu")).at(torch.tensor([4, 40, 5]))
    cache, given = randn(4, 5, 4, 12, seed=2), qkv.clone()
    queries = KERNELS.place_heads(qkv, None, turn, Place(cache, slots))
    torch.testing.assert_close(queries, rotate(given[:, :4], *turn))
    kept = torch.cat((rotate(given[:, 4:6], *turn), given[:, 6:]), dim=1)
    torch.testing.assert_close(cache.flatten(0, 1)[slots], kept)


def test_a_cache_in_float8_gets_the_nearest_that_it_can_say() -> None:
    qkv, norm = randn(2, 4, 12).float() * 1000, randn(3, 12).float()
    turn = RotaryTable(12, 9, 1e4, torch.float32, torch.device("cpu")).at(torch.tensor([4, 5]))
    exact, narrow = torch.zeros(3, 2, 2, 12), torch.zeros(3, 2, 2, 12, dtype=torch.float8_e4m3fn)
    slots = torch.tensor([3, 4])
    for cache in (exact, narrow):
        KERNELS.place_heads(qkv.clone(), Norm(norm, 1e-6), turn, Place(cache, slots))
    assert torch.equal(narrow.float(), exact.clamp(-448, 448).to(narrow.dtype).float())
    assert exact.abs().max() > 448

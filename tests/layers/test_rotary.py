"""The rotation is that of complex numbers, as in training."""

import pytest
import torch

from stentor.layers.rotary import RotaryTable, rotate


def table(head_dim: int, dtype: torch.dtype = torch.float64) -> RotaryTable:
    return RotaryTable(head_dim, 5000, 1_000_000.0, dtype, torch.device("cpu"))


@pytest.mark.parametrize("head_dim", [2, 16, 24, 128])
def test_rotation_turns_the_pairs_of_the_halves(head_dim: int) -> None:
    positions = torch.tensor([0, 1, 7, 4999])
    x = torch.randn(4, 3, head_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    real, imaginary = x.chunk(2, dim=-1)
    speeds = 1_000_000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    turn = torch.polar(torch.ones(4, head_dim // 2, dtype=torch.float64), positions[:, None] * speeds)
    turned = torch.complex(real, imaginary) * turn[:, None]
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    torch.testing.assert_close(rotate(x, *table(head_dim).at(positions)), expected)


def test_rotation_equals_that_of_transformers() -> None:
    from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

    positions = torch.arange(50)
    speeds = 1_000_000.0 ** -(torch.arange(0, 32, 2, dtype=torch.float64) / 32)
    angles = torch.outer(positions.double(), speeds).repeat(1, 2).float()
    x = torch.randn(50, 4, 32, generator=torch.Generator().manual_seed(1))
    expected, _ = apply_rotary_pos_emb(
        x.transpose(0, 1)[None], x.transpose(0, 1)[None], angles.cos()[None], angles.sin()[None]
    )
    actual = rotate(x, *table(32, torch.float32).at(positions))
    torch.testing.assert_close(actual, expected[0].transpose(0, 1), rtol=0, atol=2e-6)


def test_far_positions_keep_their_angles_in_the_models_arithmetic() -> None:
    exact, rounded = table(64).at(torch.tensor([4999])), table(64, torch.bfloat16).at(torch.tensor([4999]))
    for wide, narrow in zip(exact, rounded, strict=True):
        assert torch.equal(wide.bfloat16(), narrow)


def test_a_model_may_slow_its_frequencies_down() -> None:
    cpu = torch.device("cpu")
    slowed = RotaryTable(8, 64, 1e4, torch.float64, cpu, lambda frequencies: frequencies / 2)
    plain = RotaryTable(8, 64, 1e4, torch.float64, cpu)
    for ours, theirs in zip(slowed.at(torch.tensor([10, 60])), plain.at(torch.tensor([5, 30])), strict=True):
        torch.testing.assert_close(ours, theirs)

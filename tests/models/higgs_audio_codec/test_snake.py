import pytest
import torch

from stentor.models.higgs_audio_codec.snake import Snake, snake


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_snake_is_its_formula_to_the_rounding_of_its_arithmetic(dtype: torch.dtype) -> None:
    x, scale = (20 * torch.randn(2, 100, 8)).to(dtype), torch.randn(8).to(dtype)
    u = x.double() * scale.double()
    expected = u + torch.sin(u).square()
    before = x.clone()
    found = snake(x, scale).double()
    if dtype == torch.bfloat16:  # Rounded at each step; what u has lost, the sine does not know.
        assert (found - expected).norm() <= 2e-2 * expected.norm()
    else:
        tolerance = 8 * torch.finfo(dtype).eps * float(u.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    assert torch.equal(x, before)


@pytest.mark.parametrize("window", [(0, 40), (-3, 46), (-9, 12), (30, 20), (7, 5), (-4, 5)])
def test_the_window_of_a_snake_is_silent_beyond_the_edges_and_the_ends(window: tuple[int, int]) -> None:
    x, scale, lengths = torch.randn(3, 40, 8), torch.randn(8), torch.tensor([40, 11, 0])
    whole = snake(x, scale)
    found = snake(x, scale, lengths, window)
    assert found.shape == (3, window[1], 8)
    for place, steps in enumerate(range(window[0], sum(window))):
        for signal, length in enumerate(lengths.tolist()):
            expected = whole[signal, steps] if 0 <= steps < length else torch.zeros(8)
            assert torch.equal(found[signal, place], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_unscaled_by_the_factor_that_scales_in_its_own_rounding(dtype: torch.dtype) -> None:
    made = Snake(torch.randn(1, 64, 1).exp(), lambda values: values.to(dtype))
    whole = made.unscale(made.scale.double().reshape(1, 64, 1), dim=1)
    assert torch.equal(whole, torch.ones(1, 64, 1, dtype=torch.float64))

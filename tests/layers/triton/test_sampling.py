"""The draw of the kernel is that of the reference, code by code, on fresh scores."""

import pytest
import torch

from stentor.engine import sampler
from tests.engine.oracle import VOCAB
from tests.engine.test_sampler import MIXTURE, make_state
from tests.layers.triton.interpreted import DEVICE, randn

sampling = pytest.importorskip("stentor.layers.triton.sampling")


@pytest.mark.parametrize("spread", [0.05, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_are_those_of_the_reference(spread: float, dtype: torch.dtype) -> None:
    # bfloat16 scores are full of ties, also at the edges of the cuts.
    logits = randn(len(MIXTURE), 8, VOCAB, scale=spread).to(dtype).float()
    state, _ = make_state(MIXTURE, list(range(0, 70, 7)))
    expected = sampler.sample(logits.cpu(), state, VOCAB)
    tensors = (state.temperature, state.top_p, state.top_k, state.noise_key, state.step)
    temperature, top_p, top_k, key, step = (tensor.to(DEVICE) for tensor in tensors)
    codes = sampling.sample(logits, (temperature, top_p, top_k), key, step)
    assert torch.equal(codes.cpu(), expected)


def test_noise_is_that_of_the_reference_where_nothing_else_decides() -> None:
    state, _ = make_state([MIXTURE[1]] * 4, [0, 1, 77, 100_000])
    logits = torch.zeros(4, 8, VOCAB)
    expected = sampler.sample(logits, state, 0)
    draw = tuple(tensor.to(DEVICE) for tensor in (state.temperature, state.top_p, state.top_k))
    codes = sampling.sample(logits.to(DEVICE), draw, state.noise_key.to(DEVICE), state.step.to(DEVICE))
    assert torch.equal(codes.cpu(), expected)

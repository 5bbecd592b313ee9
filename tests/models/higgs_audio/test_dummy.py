"""Laws of random weights: a name and a seed tell them, and signals keep their size."""

import pytest
import torch

from stentor.models.higgs_audio.dummy import DummyWeights

SHAPES = {"body.q.weight": (64, 48), "body.norm.weight": (48,), "fc.bias": (48,), "snake.alpha": (1, 48, 1)}


def test_dummy_weights_depend_on_the_seed_and_the_name_only() -> None:
    def make(seed: int, shapes: dict[str, tuple[int, ...]]) -> DummyWeights:
        return DummyWeights(shapes, torch.float32, torch.device("cpu"), seed)

    first = make(1, SHAPES).tensor("body.q.weight")
    assert torch.equal(first, make(1, SHAPES).tensor("body.q.weight"))
    assert torch.equal(first, make(1, {"body.q.weight": (64, 48)}).tensor("body.q.weight"))
    assert not torch.equal(first, make(2, SHAPES).tensor("body.q.weight"))
    other = make(1, {"body.k.weight": (64, 48)}).tensor("body.k.weight")
    assert not torch.equal(first, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dummy_weights_keep_signals_at_their_size(dtype: torch.dtype) -> None:
    weights = DummyWeights(SHAPES, dtype, torch.device("cpu"))
    for name, shape in SHAPES.items():
        assert weights.tensor(name).shape == shape
        assert weights.tensor(name).dtype == dtype
    assert weights.tensor("body.q.weight").float().std().item() == pytest.approx(48**-0.5, rel=0.1)
    assert weights.tensor("body.norm.weight").unique().tolist() == [1.0]
    assert weights.tensor("snake.alpha").unique().tolist() == [1.0]
    assert weights.tensor("fc.bias").unique().tolist() == [0.0]

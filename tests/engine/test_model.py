"""The geometry of a model says what a position costs."""

import torch

from stentor.engine.model import LMShape


def test_a_position_takes_keys_and_values_of_every_layer() -> None:
    shape = LMShape(8, 1026, 1024, 1025, 36, 8, 128, 32768, torch.bfloat16)
    assert shape.position_bytes == 36 * 2 * 8 * 128 * 2

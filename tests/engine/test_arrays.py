"""What is spelt differently in the two libraries means the same."""

import numpy as np
import torch

from stentor.engine.arrays import cast, count, fill, library, pick

ARRAY = np.arange(24, dtype=np.int32).reshape(2, 3, 4) * -3
TENSOR = torch.from_numpy(ARRAY.copy())


def test_each_kind_is_served_by_its_library() -> None:
    assert library(ARRAY) is np
    assert library(TENSOR) is torch


def test_both_kinds_give_the_same() -> None:
    index = np.array([[3, 0, 1], [2, 2, 0]])
    for of_array, of_tensor in (
        (cast(ARRAY, "float64"), cast(TENSOR, "float64")),
        (fill(ARRAY, ARRAY < -20, 7), fill(TENSOR, TENSOR < -20, 7)),
        (count(5, ARRAY, "int32"), count(5, TENSOR, "int32")),
        (pick(ARRAY, index), pick(TENSOR, torch.from_numpy(index))),
    ):
        assert np.array_equal(of_array, of_tensor.numpy())
        assert of_array.dtype == of_tensor.numpy().dtype
    assert pick(ARRAY, index)[1, 2] == ARRAY[1, 2, 0]

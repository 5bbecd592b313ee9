"""Records arrive whole, in their order, whatever becomes of the memory that they were in."""

import numpy as np
import torch

from stentor.engine.landing import Landing, upload

CPU = torch.device("cpu")


def test_a_step_is_read_as_it_was_though_its_memory_is_used_again() -> None:
    landing = Landing(4, 3, CPU)
    first, second = torch.arange(6).reshape(2, 3), np.full((1, 3), 9)
    landing.add(first)
    landing.add(second)
    read = landing.close()
    first.zero_()
    landing.add(first)
    later = landing.close()
    assert read().tolist() == [[0, 1, 2], [3, 4, 5], [9, 9, 9]]
    assert later().tolist() == [[0, 0, 0], [0, 0, 0]]


def test_words_are_uploaded_as_they_are() -> None:
    words = np.arange(5)
    assert upload(words, CPU).tolist() == [0, 1, 2, 3, 4]

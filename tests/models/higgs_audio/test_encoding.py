"""What is too much together is encoded one by one, and what is too much alone is refused."""

import numpy as np
import pytest
import torch

from stentor.errors import OverloadedError
from stentor.models.higgs_audio.encoding import within_memory
from stentor.request import Array


def test_what_is_too_much_together_is_encoded_alone_or_refused() -> None:
    sizes: list[int] = []

    def encode(waveforms: "list[Array]") -> list[Array]:
        sizes.append(len(waveforms))
        if len(waveforms) > 1 or len(waveforms[0]) > 9:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [waveforms[0][:1]]

    codes = within_memory(encode, [np.full(4, 3), np.full(4, 5)], 2)  # type: ignore[arg-type]
    assert [code.tolist() for code in codes] == [[3], [5]]
    assert sizes == [2, 1, 1]
    with pytest.raises(OverloadedError, match="a reference of 5 s"):
        within_memory(encode, [np.zeros(10)], 2)  # type: ignore[arg-type]

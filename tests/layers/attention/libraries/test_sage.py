"""SageAttention gets whole prompts, in its layout; all else goes to the other backend."""

import torch
from torch import Tensor

from stentor.layers.attention import SdpaBackend
from stentor.layers.attention.libraries.sage import SageBackend
from stentor.layers.context import Batch
from tests.layers.paged import Paged

SHAPE = (4, 2, 16)


class Calls:
    """Both sides of the choice, counted."""

    def __init__(self) -> None:
        self.prompts = 0
        self.rest = 0

    def sageattn(self, q: Tensor, k: Tensor, v: Tensor, tensor_layout: str, is_causal: bool) -> Tensor:
        """As it is documented."""
        assert (tensor_layout, is_causal) == ("NHD", True)
        assert q.shape[:2] == k.shape[:2] == v.shape[:2]
        self.prompts += 1
        heads = (tensor.transpose(1, 2) for tensor in (q, k, v))
        done = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
        return done.transpose(1, 2)

    def others(self, q: Tensor, cache: Tensor, batch: Batch) -> Tensor:
        """The other backend."""
        self.rest += 1
        return SdpaBackend()(q, cache, batch)


def test_prompts_go_to_sage_and_what_is_behind_a_prefix_elsewhere() -> None:
    calls = Calls()
    paged = Paged([33, 70], SHAPE, torch.float32, SageBackend(calls.sageattn, calls.others))
    for i, out in enumerate(paged.prefill((0, 0, 32), (1, 0, 50), padding=14)):
        torch.testing.assert_close(out.double(), paged.plain(i)[: len(out)], rtol=1e-5, atol=1e-5)
    assert (calls.prompts, calls.rest) == (2, 0)
    (out,) = paged.prefill((1, 50, 69))
    torch.testing.assert_close(out.double(), paged.plain(1)[50:69], rtol=1e-5, atol=1e-5)
    out = paged.decode([0, 1], num_blocks=5)
    torch.testing.assert_close(out[1].double(), paged.plain(1)[-1], rtol=1e-5, atol=1e-5)
    assert (calls.prompts, calls.rest) == (2, 2)

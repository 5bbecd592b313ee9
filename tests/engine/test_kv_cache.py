"""How many blocks the memory holds, and that a sequence that makes room gets its numbers back."""

import torch

from stentor.engine.kv_cache import KVCache
from stentor.engine.model import LMShape

SHAPE = LMShape(8, 1026, 1024, 1025, 3, 2, 4, 4096, torch.float32)
CPU = torch.device("cpu")


def test_copied_blocks_come_back_into_other_places_bit_for_bit() -> None:
    cache = KVCache(SHAPE, 9, 16, CPU)
    cache.data.copy_(torch.randn(cache.data.shape, generator=torch.Generator().manual_seed(0)))
    before = cache.data.clone()
    saved = cache.copy_out([5, 2, 7])
    cache.data[:, [5, 2, 7]] = -1.0
    cache.copy_in([1, 8, 2], saved)
    assert torch.equal(cache.data[:, [1, 8, 2]], before[:, [5, 2, 7]])
    assert torch.equal(cache.data[:, [0, 3, 4, 6]], before[:, [0, 3, 4, 6]])


def test_an_untouched_cache_holds_nothing_that_is_not_finite() -> None:
    assert KVCache(SHAPE, 4, 16, CPU).data.isfinite().all()

"""How many blocks the memory holds, and that a sequence that makes room gets its numbers back."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


class Gathered(TorchDispatchMode):
    """Notes how many numbers each operation takes out of the cache, or puts in at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.index.Tensor:
            self.sizes.append(result.numel())
        if function is torch.ops.aten.index_put_.default:
            self.sizes.append(args[2].numel())
        return result


def test_a_sequence_makes_room_and_comes_back_layer_by_layer() -> None:
    cache = KVCache(SHAPE, 9, 16, CPU)
    with Gathered() as gathered:
        cache.copy_in([1, 8, 2], cache.copy_out([5, 2, 7]))
    layer = 3 * 16 * 2 * SHAPE.num_kv_heads * SHAPE.head_dim
    assert gathered.sizes == [layer] * SHAPE.num_layers * 2


def test_an_untouched_cache_holds_nothing_that_is_not_finite() -> None:
    assert KVCache(SHAPE, 4, 16, CPU).data.isfinite().all()

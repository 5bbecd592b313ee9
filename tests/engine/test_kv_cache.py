"""How many blocks the memory holds, and that a sequence that makes room gets its numbers back."""

import pytest
import torch

from stentor.config import EngineConfig
from stentor.engine import kv_cache
from stentor.engine.kv_cache import KVCache, count_blocks
from stentor.engine.model import LMShape
from stentor.errors import ConfigError

SHAPE = LMShape(8, 1026, 1024, 1025, 3, 2, 4, 4096, torch.float32)
BLOCK_BYTES = 16 * SHAPE.position_bytes
CPU = torch.device("cpu")


def count(max_context: int = 100, **settings: int) -> int:
    return count_blocks(SHAPE, EngineConfig(**settings), max_context, CPU)


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


def test_bytes_buy_whole_blocks() -> None:
    assert count(kv_cache_bytes=20 * BLOCK_BYTES + 5) == 20


def test_unasked_there_is_room_for_every_running_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_cache, "_free_bytes", lambda device: 10**9)
    assert count(max_running_requests=5) == 5 * 7 + 1


def test_unasked_a_fifth_of_the_free_memory_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_cache, "_free_bytes", lambda device: 20 * BLOCK_BYTES)
    assert count(max_running_requests=1000) == 16


def test_too_little_room_for_one_sequence_says_how_much_it_takes() -> None:
    with pytest.raises(ConfigError, match="raise --kv-cache-bytes to at least") as refusal:
        count(kv_cache_bytes=7 * BLOCK_BYTES)
    wanted = 8 * BLOCK_BYTES
    assert str(wanted) in refusal.value.message
    assert count(kv_cache_bytes=wanted) == 8


def test_the_free_memory_is_known_with_and_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kv_cache._free_bytes(CPU) > 2**20

    def absent(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", absent)
    assert kv_cache._free_bytes(CPU) > 2**20

"""The memory that there is becomes blocks, and the log says what went where."""

import logging

import pytest
import torch

from stentor.config import EngineConfig
from stentor.engine import memory
from stentor.engine.engine import Engine
from stentor.engine.memory import cache_shape, count_blocks, report
from stentor.engine.model import LMShape
from stentor.errors import ConfigError
from tests.checkpoints import Recipe
from tests.engine.harness import Rig, make_lm
from tests.engine.oracle import greedy, random_prompt

SHAPE = LMShape(8, 1026, 1024, 1025, 3, 2, 4, 4096, torch.float32)
BLOCK_BYTES = 16 * SHAPE.position_bytes
CPU = torch.device("cpu")


def count(max_context: int = 100, **settings: int) -> int:
    return count_blocks(SHAPE, EngineConfig(**settings), max_context, CPU)


def test_bytes_buy_whole_blocks() -> None:
    assert count(kv_cache_bytes=20 * BLOCK_BYTES + 5) == 20


def test_unasked_there_is_room_for_every_running_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**9)
    assert count(max_running_requests=5) == 5 * 7 + 1


def test_unasked_a_fifth_of_the_free_memory_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 20 * BLOCK_BYTES)
    assert count(max_running_requests=1000) == 16


def test_too_little_room_for_one_sequence_says_how_much_it_takes() -> None:
    with pytest.raises(ConfigError, match="raise --kv-cache-bytes to at least") as refusal:
        count(kv_cache_bytes=7 * BLOCK_BYTES)
    wanted = 8 * BLOCK_BYTES
    assert str(wanted) in refusal.value.message
    assert count(kv_cache_bytes=wanted) == 8


def test_what_steps_and_graphs_need_is_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 30 * BLOCK_BYTES)
    config = EngineConfig(max_running_requests=1000)
    assert count_blocks(SHAPE, config, 100, CPU, needed_bytes=10 * BLOCK_BYTES) == 16


def test_more_bytes_than_there_are_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 20 * BLOCK_BYTES)
    assert count(kv_cache_bytes=20 * BLOCK_BYTES) == 20
    with pytest.raises(ConfigError, match="bytes free: lower it"):
        count(kv_cache_bytes=21 * BLOCK_BYTES)


def test_what_other_stages_need_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_lm(Recipe(seed=3, with_codec=False))
    block_bytes = 16 * model.shape.position_bytes
    monkeypatch.setattr(memory, "free_bytes", lambda device: 100 * block_bytes)
    blocks = [
        Engine(model, EngineConfig(max_context=128), reserved).stats()["kv_blocks_total"]
        for reserved in (0, 60 * block_bytes)
    ]
    assert blocks == [79, 31]


def test_the_log_says_what_goes_where(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        report(SHAPE, 33, 16, 0, CPU)
    assert "memory on cpu: keys and values 0.00 GiB (512 positions); " in caplog.text
    assert "left free" in caplog.text


def test_a_cache_in_float8_takes_half_the_bytes_of_bfloat16_and_serves() -> None:
    recipe = Recipe(seed=3, with_codec=False)
    model = make_lm(recipe, torch.bfloat16)
    position_bytes = model.shape.position_bytes // 2
    assert cache_shape(model.shape, EngineConfig(kv_cache_dtype="fp8"), CPU).position_bytes == position_bytes
    # Tight enough that sequences are put aside and come back.
    rig = Rig(model, kv_cache_dtype="fp8", max_context=128, kv_cache_bytes=11 * 16 * position_bytes)
    stories = rig.run([greedy(f"s{i}", random_prompt(recipe, i), 60) for i in range(3)])
    assert all(story.reason is not None for story in stories.values())


def test_a_backend_that_does_not_read_float8_is_refused() -> None:
    config = EngineConfig(kv_cache_dtype="fp8", attention_backend="fa3")
    with pytest.raises(ConfigError, match="fp8 does not go with --attention-backend fa3: use auto"):
        cache_shape(SHAPE, config, CPU)

"""What is free is told with and without /proc, and within a container's limit."""

from pathlib import Path

import pytest
import torch

from stentor.bench.machine import this_machine
from stentor.engine import host_memory
from stentor.engine.host_memory import host_free_bytes, host_total_bytes
from stentor.engine.memory import free_bytes


def test_the_free_memory_is_known_with_and_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    total = host_total_bytes()
    assert 2**20 < host_free_bytes() < total

    def absent(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", absent)
    assert 2**20 < host_free_bytes() < host_total_bytes()


def test_a_container_has_what_its_limit_leaves_beside_what_it_could_give_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "_CGROUP", tmp_path)
    whole, total = host_free_bytes(), host_total_bytes()
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 300000\nactive_file 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert host_free_bytes() > whole // 2
    assert host_total_bytes() == total
    (tmp_path / "memory.max").write_text("1000000\n")
    assert host_free_bytes() == 500_000
    # The engine and `stentor doctor` go by the same.
    assert host_total_bytes() == this_machine().memory_bytes == 1_000_000
    assert free_bytes(torch.device("cpu")) == this_machine().free_memory_bytes == 500_000

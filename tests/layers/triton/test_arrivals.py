"""Whoever comes last finishes a launch's result, once, and leaves the counters for the next launch."""

import pytest
import torch

from tests.layers.triton.interpreted import DEVICE

triton = pytest.importorskip("triton")
tl = triton.language
arrivals = pytest.importorskip("stentor.layers.triton.arrivals")
is_last = arrivals.is_last


@triton.jit
def _sum_of_squares(parts, out, arrived, count: tl.constexpr):
    row, part = tl.program_id(0), tl.program_id(1)
    tl.store(parts + row * count + part, part * part)
    if is_last(arrived + row, count):
        there = tl.load(parts + row * count + tl.arange(0, count), cache_modifier=".cg")
        tl.store(out + row, tl.load(out + row) + tl.sum(there, axis=0))


def test_the_last_of_each_row_sees_all_parts_and_sets_its_counter_back() -> None:
    rows, count = 6, 16
    out = torch.zeros(rows, dtype=torch.int64, device=DEVICE)
    arrived = torch.zeros(rows, dtype=torch.int32, device=DEVICE)
    for launch in (1, 2, 3):
        parts = torch.full((rows, count), -1, dtype=torch.int64, device=DEVICE)
        _sum_of_squares[(rows, count)](parts, out, arrived, count=count)
        assert out.tolist() == [launch * sum(part * part for part in range(count))] * rows
        assert not arrived.any()

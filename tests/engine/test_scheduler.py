"""Who runs next: first come, first served; nobody starves, nobody is forgotten, and no gap is left."""

import subprocess
import sys
from itertools import count

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.engine.block_manager import BlockManager
from stentor.engine.scheduler import Plan, Removal, Scheduler
from stentor.engine.sequence import Sequence
from tests.engine.accounting import check_schedule, make_sequence

SIZE = 4
ROW = np.zeros(8, dtype=np.int64)


class Mirror:
    """Drives a scheduler as the engine does and keeps, like the device, its own picture of the slots."""

    def __init__(self, num_blocks: int, max_running: int = 4, max_prefill_tokens: int = 1000) -> None:
        self.blocks = BlockManager(num_blocks, SIZE)
        self.scheduler = Scheduler(self.blocks, max_running, max_prefill_tokens)
        self.max_running = max_running
        self.slots: list[tuple[Sequence, list[int]]] = []
        self._arrivals = count(1)

    def add(self, sequence: Sequence) -> Sequence:
        sequence.arrival = next(self._arrivals)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> Plan:
        plan = self.scheduler.plan()
        for removal in plan.preempted:
            removal.sequence.saved = removal.blocks
            self.release(removal)
        for slot, index, block in plan.extended:
            assert len(self.slots[slot][1]) == index
            self.slots[slot][1].append(block)
        for chunk in plan.chunks:
            assert chunk.start < chunk.end == chunk.sequence.num_filled
            if chunk.completes:
                self.blocks.publish(chunk.sequence)
        assert all(chunk.completes for chunk in plan.chunks[:-1])
        for sequence in plan.admitted:
            sequence.saved = None
            self.slots.append((sequence, list(sequence.blocks)))
        assert [(s, s.blocks) for s in self.scheduler.running] == self.slots
        check_schedule(self.scheduler, self.max_running)
        for sequence in list(self.scheduler.running):
            sequence.append(ROW)
            if sequence.num_rows == sequence.max_rows:
                self.remove(sequence)
        return plan

    def remove(self, sequence: Sequence) -> None:
        self.release(self.scheduler.remove(sequence))
        check_schedule(self.scheduler, self.max_running)

    def release(self, removal: Removal) -> None:
        sequence, blocks = self.slots[removal.slot]
        assert sequence is removal.sequence
        # Who makes room may have been given a block in the same round, which the device never saw.
        assert blocks in (removal.blocks, removal.blocks[:-1])
        self.slots[removal.slot] = self.slots[removal.last]
        assert self.slots.pop() is not None


def names(sequences: list[Sequence]) -> list[str]:
    return [sequence.id for sequence in sequences]


def test_scheduling_imports_no_torch() -> None:
    code = "import stentor.engine.scheduler, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_first_come_first_served_up_to_the_running_limit() -> None:
    mirror = Mirror(100, max_running=2)
    for name in "abc":
        mirror.add(make_sequence(name, 5, max_rows=3))
    assert names(mirror.step().admitted) == ["a", "b"]
    mirror.step()
    mirror.step()
    assert names(mirror.step().admitted) == ["c"]


def test_the_last_sequence_fills_the_place_of_one_that_leaves() -> None:
    mirror = Mirror(100)
    sequences = [mirror.add(make_sequence(name, 5)) for name in "abcd"]
    mirror.step()
    mirror.remove(sequences[1])
    assert names(mirror.scheduler.running) == ["a", "d", "c"]
    mirror.remove(sequences[2])
    assert names(mirror.scheduler.running) == ["a", "d"]


def test_one_step_prefills_no_more_than_its_budget() -> None:
    mirror = Mirror(100, max_prefill_tokens=12)
    for voice, name in enumerate("abc"):
        mirror.add(make_sequence(name, 6, voice=voice))
    assert names(mirror.step().admitted) == ["a", "b"]
    assert names(mirror.step().admitted) == ["c"]


def pieces(plan: Plan) -> list[tuple[str, int, int]]:
    return [(chunk.sequence.id, chunk.start, chunk.end) for chunk in plan.chunks]


def test_a_prompt_above_the_budget_is_computed_in_pieces_beside_what_runs() -> None:
    mirror = Mirror(200, max_prefill_tokens=100)
    mirror.add(make_sequence("first", 8))
    assert pieces(mirror.step()) == [("first", 0, 8)]
    mirror.add(make_sequence("short", 20, voice=3))
    mirror.add(make_sequence("long", 300, voice=2))
    mirror.add(make_sequence("next", 2, voice=1))
    assert pieces(mirror.step()) == [("short", 0, 20), ("long", 0, 64)]
    assert pieces(mirror.step()) == [("long", 64, 128)]
    assert mirror.scheduler.running[0].num_rows == 3
    for start in (128, 192):
        assert pieces(mirror.step()) == [("long", start, start + 64)]
    assert pieces(mirror.step()) == [("long", 256, 300), ("next", 0, 2)]


def test_a_budget_below_the_usual_step_still_makes_way() -> None:
    mirror = Mirror(100, max_prefill_tokens=4)
    mirror.add(make_sequence("s", 10))
    assert [pieces(mirror.step()) for _ in range(3)] == [[("s", 0, 4)], [("s", 4, 8)], [("s", 8, 10)]]


def test_a_prompt_computed_in_part_makes_room_before_anyone_who_runs() -> None:
    mirror = Mirror(9, max_running=3, max_prefill_tokens=6)
    mirror.add(make_sequence("runs", 6, max_rows=12))
    mirror.step()
    fills = mirror.add(make_sequence("fills", 22, max_rows=9, voice=1))
    mirror.step()
    assert (len(fills.blocks), fills.num_filled) == (6, 6)
    mirror.step()
    assert not mirror.step().preempted
    assert (len(fills.blocks), fills.num_filled) == (0, 0)
    for _ in range(60):
        mirror.step()
    assert fills.num_rows == 9
    assert mirror.blocks.num_available == 8


def test_a_round_looks_only_at_those_whose_blocks_are_full() -> None:
    mirror = Mirror(100)
    for name in "abc":
        mirror.add(make_sequence(name, 3))
    grown = [len(mirror.step().extended) for _ in range(9)]
    assert grown == [0, 0, 3, 0, 0, 0, 3, 0, 0]


def test_what_is_cached_or_saved_costs_no_budget() -> None:
    mirror = Mirror(100, max_prefill_tokens=12)
    mirror.add(make_sequence("a", 9))
    mirror.step()
    for name in "bcd":
        mirror.add(make_sequence(name, 9))
    assert names(mirror.step().admitted) == ["b", "c", "d"]
    saved = Mirror(100, max_prefill_tokens=12)
    for voice in range(3):
        saved.add(make_sequence("s", 12, voice=voice)).saved = "numbers"
    assert len(saved.step().admitted) == 3


def test_the_last_to_come_makes_room_and_comes_back_first() -> None:
    mirror = Mirror(7, max_running=3)
    for voice, name in enumerate("abc"):
        mirror.add(make_sequence(name, 6, max_rows=12, voice=voice))
    assert names(mirror.step().admitted) == ["a", "b", "c"]
    preempted: list[str] = []
    admitted: list[str] = []
    while mirror.scheduler.running or mirror.scheduler.waiting:
        plan = mirror.step()
        preempted += [removal.sequence.id for removal in plan.preempted]
        admitted += names(plan.admitted)
        assert not (plan.preempted and plan.admitted)
    assert preempted[0] == "c"
    assert admitted[-1] == "c"
    assert mirror.blocks.num_available == 6


def test_the_oldest_never_makes_room() -> None:
    mirror = Mirror(9, max_running=4)
    oldest = mirror.add(make_sequence("oldest", 4, max_rows=28))
    for voice in range(1, 8):
        mirror.add(make_sequence(f"s{voice}", 4, max_rows=9, voice=voice))
    for _ in range(28):
        assert oldest not in [removal.sequence for removal in mirror.step().preempted]
    assert oldest.num_rows == 28


@settings(max_examples=60, deadline=None)
@given(
    num_blocks=st.integers(9, 20),
    arrivals=st.lists(st.tuples(st.integers(1, 16), st.integers(1, 16), st.integers(0, 2)), max_size=12),
    aborts=st.lists(st.integers(0, 30), max_size=6),
)
def test_every_sequence_ends_and_every_block_comes_back(
    num_blocks: int, arrivals: list[tuple[int, int, int]], aborts: list[int]
) -> None:
    mirror = Mirror(num_blocks, max_running=3, max_prefill_tokens=20)
    sequences = [make_sequence("s", prompt, rows, voice) for prompt, rows, voice in arrivals]
    pending = list(sequences)
    aborted: list[Sequence] = []
    for step in range(1000):
        if pending:
            mirror.add(pending.pop(0))
        mirror.step()
        if step in aborts and mirror.scheduler.running:
            aborted.append(mirror.scheduler.running[step % len(mirror.scheduler.running)])
            mirror.remove(aborted[-1])
        if not (pending or mirror.scheduler.running or mirror.scheduler.waiting):
            break
    assert all(s.num_rows == s.max_rows for s in sequences if s not in aborted)
    assert mirror.blocks.num_available == num_blocks - 1

"""Who runs next: admits what waits, makes room when blocks run out, keeps the batch free of gaps."""

from collections import deque
from dataclasses import dataclass, field

from stentor.engine.block_manager import BlockManager
from stentor.engine.sequence import Sequence


@dataclass(frozen=True)
class Removal:
    """A sequence left: it was in `slot` and held `blocks`; whoever was in slot `last` is now in `slot`."""

    sequence: Sequence
    slot: int
    last: int
    blocks: list[int]


@dataclass
class Plan:
    """A round: who makes room (in this order), who got a further block (slot, index, block), who comes in."""

    preempted: list[Removal] = field(default_factory=list)
    extended: list[tuple[int, int, int]] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)


class Scheduler:
    """First come, first served; the last to come makes room first.

    `running[slot]` is the sequence in that row of the batch. When one leaves, the last takes its place, so
    the rows 0 .. len(running) - 1 are always all taken.
    """

    def __init__(self, blocks: BlockManager, max_running: int, max_prefill_tokens: int) -> None:
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self._blocks = blocks
        self._max_running = max_running
        self._max_prefill_tokens = max_prefill_tokens

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind the others."""
        self.waiting.append(sequence)

    def plan(self) -> Plan:
        """Give every running sequence a place for its next position, then fill the batch from the queue."""
        plan = Plan()
        grown: set[Sequence] = set()
        for sequence in list(self.running):
            if sequence.blocks and self._extend(sequence, plan):
                grown.add(sequence)
        plan.extended = [
            (slot, len(sequence.blocks) - 1, sequence.blocks[-1])
            for slot, sequence in enumerate(self.running)
            if sequence in grown
        ]
        if not plan.preempted:
            self._admit(plan)
        return plan

    def remove(self, sequence: Sequence) -> Removal:
        """Take a running sequence out of the batch and its blocks back; the one in the last slot moves up."""
        slot = self.running.index(sequence)
        last = len(self.running) - 1
        removal = Removal(sequence, slot, last, sequence.blocks)
        self._blocks.free(sequence)
        self.running[slot] = self.running[last]
        self.running.pop()
        return removal

    def _extend(self, sequence: Sequence, plan: Plan) -> bool:
        """Does the sequence have a new block, be it that others, or itself, had to make room for it."""
        before = len(sequence.blocks)
        while sequence.blocks and not self._blocks.extend(sequence):
            victim = max(self.running, key=lambda candidate: candidate.arrival)
            plan.preempted.append(self.remove(victim))
            self.waiting.appendleft(victim)
        return len(sequence.blocks) > before

    def _admit(self, plan: Plan) -> None:
        budget = self._max_prefill_tokens
        while self.waiting and len(self.running) < self._max_running:
            sequence = self.waiting[0]
            tokens = len(sequence.prompt) if sequence.saved is None else 0
            # A prompt above the whole budget still runs, alone.
            if plan.admitted and tokens > budget:
                break
            if not self._blocks.allocate(sequence):
                break
            budget -= max(0, tokens - sequence.num_cached)
            self.waiting.popleft()
            self.running.append(sequence)
            plan.admitted.append(sequence)

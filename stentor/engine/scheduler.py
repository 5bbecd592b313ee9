"""Who runs next: admits what waits, makes room when blocks run out, keeps the batch free of gaps."""

from collections import defaultdict, deque
from dataclasses import dataclass, field

from stentor.engine.block_manager import BlockManager
from stentor.engine.sequence import Sequence

# A piece of a prompt ends at a multiple of this many positions, where attention begins a new tile; a shorter
# one is not begun.
_CHUNK_STEP = 64


@dataclass(frozen=True)
class Removal:
    """A sequence left: it was in `slot` and held `blocks`; whoever was in slot `last` is now in `slot`."""

    sequence: Sequence
    slot: int
    last: int
    blocks: list[int]


@dataclass(frozen=True)
class Chunk:
    """The positions [start, end) of a sequence's prompt, which a step is to compute."""

    sequence: Sequence
    start: int
    end: int

    @property
    def completes(self) -> bool:
        """Is it the last one: does the sequence draw its first row behind it."""
        return self.end == len(self.sequence.prompt)


@dataclass
class Plan:
    """A round: who makes room (in this order), who got a further block (slot, index, block), who comes in.

    The `admitted` are those that were set aside before, then those whose prompt completes in `chunks`; at
    most the last chunk does not complete its prompt.
    """

    preempted: list[Removal] = field(default_factory=list)
    extended: list[tuple[int, int, int]] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)


class Scheduler:
    """First come, first served; the last to come makes room first.

    `running[slot]` is the sequence in that row of the batch. When one leaves, the last takes its place, so
    the rows 0 .. len(running) - 1 are always all taken. A round looks only at the sequences whose turn it is
    to get a block: each is filed under the round in which its blocks will be full.
    """

    def __init__(self, blocks: BlockManager, max_running: int, max_prefill_tokens: int) -> None:
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self._blocks = blocks
        self._max_running = max_running
        self._max_prefill_tokens = max_prefill_tokens
        self._round = 0
        self._due: defaultdict[int, list[Sequence]] = defaultdict(list)
        self._filling: Sequence | None = None  # waits with blocks, its prompt computed in part
        self._furthest: int | None = None

    @property
    def longest(self) -> int:
        """The furthest position that a running sequence may compute in this round."""
        if self._furthest is None:
            self._furthest = max(sequence.offset for sequence in self.running)
        return self._furthest + self._round

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind the others."""
        self.waiting.append(sequence)

    def plan(self) -> Plan:
        """Give every running sequence a place for its next position, then fill the batch from the queue."""
        self._round += 1
        plan = Plan()
        due = self._due.pop(self._round, ())
        grown = [s for s in due if s.due == self._round and self._extend(s, plan)]
        plan.extended = [(s.slot, len(s.blocks) - 1, s.blocks[-1]) for s in grown if s.slot is not None]
        if not plan.preempted:
            self._admit(plan)
        return plan

    def remove(self, sequence: Sequence) -> Removal:
        """Take a running sequence out of the batch and its blocks back; the one in the last slot moves up."""
        slot, last = sequence.slot, len(self.running) - 1
        assert slot is not None, "it is running"
        removal = Removal(sequence, slot, last, sequence.blocks)
        self._blocks.free(sequence)
        moved = self.running.pop()
        if moved is not sequence:
            self.running[slot], moved.slot = moved, slot
        sequence.slot, sequence.due, self._furthest = None, 0, None
        return removal

    def drop(self, sequence: Sequence) -> None:
        """Take a waiting sequence out of the queue."""
        self.waiting.remove(sequence)
        self._empty(sequence)

    def _extend(self, sequence: Sequence, plan: Plan) -> bool:
        """Does the sequence have a new block, be it that others, or itself, had to make room for it."""
        while sequence.slot is not None and not self._blocks.extend(sequence):
            if self._filling is not None:
                self._empty(self._filling)
                continue
            victim = max(self.running, key=lambda candidate: candidate.arrival)
            plan.preempted.append(self.remove(victim))
            self.waiting.appendleft(victim)
        if sequence.slot is None:
            return False
        self._file(sequence)
        return True

    def _empty(self, sequence: Sequence) -> None:
        """Take a waiting sequence's blocks back, if it has any; its prompt begins anew."""
        if self._filling is sequence:
            self._filling = None
        self._blocks.free(sequence)

    def _admit(self, plan: Plan) -> None:
        budget = self._max_prefill_tokens
        while self.waiting and len(self.running) < self._max_running:
            sequence = self.waiting[0]
            if not sequence.blocks and not self._blocks.allocate(sequence):
                break
            if sequence.saved is None:
                end = self._chunk_end(sequence, budget, alone=not plan.chunks)
                if end <= sequence.num_filled:
                    self._filling = sequence
                    break
                plan.chunks.append(Chunk(sequence, sequence.num_filled, end))
                budget -= end - sequence.num_filled
                sequence.num_filled = end
                self._filling = sequence if end < len(sequence.prompt) else None
                if self._filling is not None:
                    break
            self.waiting.popleft()
            self._enter(sequence)
            plan.admitted.append(sequence)

    @staticmethod
    def _chunk_end(sequence: Sequence, budget: int, *, alone: bool) -> int:
        """Where the next piece of a prompt ends; no further than it is now, if it is not worth to begin."""
        end = sequence.num_filled + budget
        if end >= len(sequence.prompt):
            return len(sequence.prompt)
        whole = end - end % _CHUNK_STEP
        return end if alone and whole <= sequence.num_filled else whole

    def _enter(self, sequence: Sequence) -> None:
        sequence.slot = len(self.running)
        self.running.append(sequence)
        # In this round it computes the last position that it has; from now on one more in each.
        sequence.offset = len(sequence.prompt) + sequence.num_rows - 1 - self._round
        self._furthest = None
        self._file(sequence)

    def _file(self, sequence: Sequence) -> None:
        """Note the round in which the sequence's blocks are full, unless its last row comes before."""
        capacity = len(sequence.blocks) * self._blocks.block_size
        if capacity < len(sequence.prompt) + sequence.max_rows - 1:
            sequence.due = capacity - sequence.offset
            self._due[sequence.due].append(sequence)

"""The autoregressive loop: add sequences, step them all, abort any."""

import numpy as np

from stentor.config import EngineConfig
from stentor.engine.block_manager import BlockManager
from stentor.engine.kv_cache import KVCache, count_blocks
from stentor.engine.model import SpeechLM
from stentor.engine.model_runner import ModelRunner
from stentor.engine.sampler import choose_advance
from stentor.engine.scheduler import Plan, Scheduler
from stentor.engine.sequence import Output, Sequence
from stentor.engine.state import Status
from stentor.layers.attention import choose_backend
from stentor.request import Array, FinishReason

_FINISH = {
    Status.STOP: FinishReason.STOP,
    Status.LENGTH: FinishReason.LENGTH,
    Status.RUNAWAY: FinishReason.RUNAWAY,
}


class Engine:
    """One model that serves many sequences at once; not thread-safe, blind to text, audio and requests."""

    def __init__(self, model: SpeechLM, config: EngineConfig) -> None:
        self.max_context = min(config.max_context, model.shape.max_positions)
        num_blocks = count_blocks(model.shape, config, self.max_context, model.device)
        self._blocks = BlockManager(num_blocks, config.block_size, config.prefix_caching)
        self._scheduler = Scheduler(self._blocks, config.max_running_requests, config.max_prefill_tokens)
        self._runner = ModelRunner(
            model,
            choose_backend(config.attention_backend, model.device),
            KVCache(model.shape, num_blocks, config.block_size, model.device),
            config.max_running_requests,
            self.max_context,
            config.block_size,
            choose_advance(config.kernels, model.device),
        )
        self._arrivals = 0
        self._prefilled_tokens = 0
        self._cached_tokens = 0
        self._preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; prompt and rows together must fit `max_context`."""
        assert len(sequence.prompt) + sequence.max_rows <= self.max_context, "the front checks the length"
        self._arrivals += 1
        sequence.arrival = self._arrivals
        self._scheduler.add(sequence)

    def step(self) -> list[Output]:
        """One row for every running sequence, and the first row of those that come in."""
        plan = self._scheduler.plan()
        fresh = self._apply(plan)
        running = self._scheduler.running
        num_decoding = len(running) - len(fresh)
        records: list[Array] = []
        if num_decoding:
            longest = max(sequence.num_positions for sequence in running[:num_decoding])
            records.append(self._runner.decode(num_decoding, longest))
        if fresh:
            records.append(self._runner.prefill(fresh, num_decoding))
            for sequence in fresh:
                self._blocks.publish(sequence)
        return self._collect(np.concatenate(records)) if records else []

    def abort(self, sequence_id: str) -> None:
        """Forget a sequence, wherever it is, and free its blocks."""
        scheduler = self._scheduler
        for sequence in [s for s in scheduler.waiting if s.id == sequence_id]:
            scheduler.waiting.remove(sequence)
        for sequence in [s for s in scheduler.running if s.id == sequence_id]:
            self._remove(sequence)

    def has_work(self) -> bool:
        """Is any sequence running or waiting."""
        return bool(self._scheduler.running or self._scheduler.waiting)

    def stats(self) -> dict[str, float]:
        """Gauges: sequences, blocks, and what the prefix cache saved."""
        return {
            "sequences_running": len(self._scheduler.running),
            "sequences_waiting": len(self._scheduler.waiting),
            "kv_blocks_used": self._blocks.num_owned,
            "kv_blocks_total": self._blocks.num_blocks - 1,
            "prefill_tokens": self._prefilled_tokens,
            "prefix_cached_tokens": self._cached_tokens,
            "preemptions": self._preemptions,
        }

    def _apply(self, plan: Plan) -> list[Sequence]:
        """Carry out the plan on the device; give the sequences that need a prefill."""
        for removal in plan.preempted:
            self._runner.save(removal)
            self._runner.release(removal)
        self._preemptions += len(plan.preempted)
        self._runner.extend(plan.extended)
        fresh = [sequence for sequence in plan.admitted if sequence.saved is None]
        first = len(self._scheduler.running) - len(plan.admitted)
        for slot, sequence in enumerate(plan.admitted[: len(plan.admitted) - len(fresh)], first):
            self._runner.restore(sequence, slot)
        if plan.preempted or plan.admitted:
            self._runner.set_sampling(self._scheduler.running)
        for sequence in fresh:
            self._prefilled_tokens += len(sequence.prompt) - sequence.num_cached
            self._cached_tokens += sequence.num_cached
        return fresh

    def _collect(self, records: Array) -> list[Output]:
        outputs: list[Output] = []
        ended: list[Sequence] = []
        for sequence, record in zip(self._scheduler.running, records, strict=True):
            frames = sequence.append(record[:-1])
            finish_reason = _FINISH.get(record[-1])
            if finish_reason is not None:
                ended.append(sequence)
            outputs.append(Output(sequence, frames, finish_reason))
        for sequence in ended:
            self._remove(sequence)
        return outputs

    def _remove(self, sequence: Sequence) -> None:
        self._runner.release(self._scheduler.remove(sequence))
        self._runner.set_sampling(self._scheduler.running)

"""The autoregressive loop: add sequences, step them all, abort any."""

import contextlib
import gc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from stentor.config import EngineConfig
from stentor.engine.block_manager import BlockManager
from stentor.engine.kv_cache import KVCache
from stentor.engine.memory import cache_shape, count_blocks, free_bytes, report
from stentor.engine.model import LMShape, SpeechLM
from stentor.engine.model_runner import ModelRunner
from stentor.engine.sampler import choose_advance
from stentor.engine.scheduler import Chunk, Plan, Scheduler
from stentor.engine.sequence import Output, Sequence
from stentor.engine.state import Status
from stentor.errors import OverloadedError
from stentor.layers.attention import choose_backend
from stentor.request import Array, FinishReason

_FINISH = {Status[reason.name]: reason for reason in FinishReason}


@dataclass(frozen=True)
class _Flight:
    """A step under way: whose records it brings, in their order, and how to wait for them."""

    sequences: list[Sequence]
    read: Callable[[], Array]


class Engine:
    """One model that serves many sequences at once; not thread-safe, blind to text, audio and requests.

    Where steps overlap, the next one is launched before the records of the last are read: what they say, such
    as that a sequence has ended, is heeded one step later here, and on the device at once.
    """

    def __init__(self, model: SpeechLM, config: EngineConfig, reserved_bytes: int = 0) -> None:
        """`reserved_bytes` of the device are for other stages.

        Raises:
            ConfigError: the device has too little memory for the cache.
        """
        self.max_context = min(config.max_context, model.shape.max_positions)
        shape = cache_shape(model.shape, config, model.device)
        steps_bytes = self._measure_steps(model, config, shape)
        num_blocks = count_blocks(shape, config, self.max_context, model.device, steps_bytes + reserved_bytes)
        self._blocks = BlockManager(num_blocks, config.block_size, config.prefix_caching)
        self._scheduler = Scheduler(self._blocks, config.max_running_requests, config.max_prefill_tokens)
        self._runner = self._make_runner(model, config, shape, num_blocks)
        self._runner.warm_up()
        report(shape, num_blocks, config.block_size, steps_bytes, model.device)
        on_gpu = model.device.type == "cuda"
        self._overlaps = on_gpu if config.overlap == "auto" else config.overlap == "on"
        self._flight: _Flight | None = None
        self._refused: list[Output] = []
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
        """One row for every running sequence, and the first row of those that come in.

        If it raises, every sequence is to be aborted.
        """
        with self._runner.in_order():
            try:
                flight = self._launch()
            except Exception:
                self._flight, self._refused = None, []
                self._runner.reset()
                raise
            if self._overlaps:
                flight, self._flight = self._flight, flight
            refused, self._refused = self._refused, []
            return refused + (self._collect(flight) if flight else [])

    def abort(self, sequence_id: str) -> None:
        """Forget a sequence, wherever it is, and free its blocks."""
        with self._runner.in_order():
            for sequence in [*self._scheduler.waiting, *self._scheduler.running]:
                if sequence.id == sequence_id:
                    self._remove(sequence)

    def has_work(self) -> bool:
        """Is any sequence running or waiting, or on its way."""
        return bool(self._scheduler.running or self._scheduler.waiting or self._flight)

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

    def _make_runner(
        self, model: SpeechLM, config: EngineConfig, shape: LMShape, num_blocks: int
    ) -> ModelRunner:
        return ModelRunner(
            model,
            choose_backend(config.attention_backend, model.device),
            KVCache(shape, num_blocks, config.block_size, model.device),
            config.max_running_requests,
            self.max_context,
            choose_advance(config.kernels, model.device, shape),
            graphs=config.cuda_graphs,
        )

    def _measure_steps(self, model: SpeechLM, config: EngineConfig, shape: LMShape) -> int:
        """Bytes of the device that the largest steps, their graphs and the state take beside the cache."""
        if model.device.type != "cuda":
            return 0
        least_blocks = -(-self.max_context // config.block_size) + 1
        before_bytes = free_bytes(model.device)
        trial = self._make_runner(model, config, shape, least_blocks)
        trial.warm_up(largest_only=True)
        used_bytes = before_bytes - free_bytes(model.device)
        del trial
        gc.collect()
        torch.cuda.empty_cache()
        return max(0, used_bytes - least_blocks * config.block_size * shape.position_bytes)

    def _launch(self) -> _Flight | None:
        """Begin the next step, if there is one; nothing here waits or looks at each sequence."""
        plan, scheduler = self._scheduler.plan(), self._scheduler
        self._apply(plan)
        num_fresh = sum(chunk.completes for chunk in plan.chunks)
        num_decoding = len(scheduler.running) - num_fresh
        drawing = self._decode(0, num_decoding) if num_decoding else []
        starved = []
        if len(drawing) < num_decoding:
            starved = [sequence for sequence in scheduler.running[:num_decoding] if sequence not in drawing]
        if plan.chunks:
            drawing += self._prefill(plan.chunks)
        for sequence in starved:
            self._refuse(sequence)
        return _Flight(drawing, self._runner.land()) if drawing else None

    def _decode(self, start: int, end: int, captured: bool = True) -> list[Sequence]:
        """A step of the slots [start, end); if memory runs out, without a graph, which takes more, then in
        halves, whose rows do not feel it.

        Returns:
            The sequences that drew a row: not one for which there is no memory alone.
        """
        # Tried again behind the clause: within it, the failed try's tensors are still there.
        with contextlib.suppress(torch.OutOfMemoryError):
            self._runner.decode(start, end, self._scheduler.longest, captured)
            return self._scheduler.running[start:end]
        if captured:
            return self._decode(start, end, captured=False)
        if end - start == 1:
            return []
        middle = (start + end) // 2
        return self._decode(start, middle, False) + self._decode(middle, end, False)

    def _prefill(self, chunks: list[Chunk], captured: bool = True) -> list[Sequence]:
        """Compute the chunks together; if memory runs out, without a graph, then one by one, and refuse
        those that fail alone.

        Returns:
            The sequences that drew their first row, in the order of their records.
        """
        complete = [chunk.sequence for chunk in chunks if chunk.completes]
        with contextlib.suppress(torch.OutOfMemoryError):
            self._runner.prefill(chunks, (complete[0].slot or 0) if complete else 0, captured)
            for chunk in chunks:
                self._note(chunk)
            return complete
        if captured:
            return self._prefill(chunks, captured=False)
        if len(chunks) > 1:
            return [sequence for chunk in chunks for sequence in self._prefill([chunk])]
        self._refuse(chunks[0].sequence)
        return []

    def _refuse(self, sequence: Sequence) -> None:
        """End a sequence for which there is no memory, with an error of its own."""
        error = OverloadedError(
            f"no memory for a sequence of {len(sequence.prompt) + sequence.num_rows} positions now: "
            "try again later, or lower --max-prefill-tokens or --kv-cache-bytes"
        )
        self._refused.append(Output(sequence, sequence.rows[:0], error=error))
        self._remove(sequence)

    def _apply(self, plan: Plan) -> None:
        """Carry out the plan on the device, but for the prefill."""
        for removal in plan.preempted:
            self._runner.save(removal)
            self._runner.release(removal)
        self._preemptions += len(plan.preempted)
        self._runner.extend(plan.extended)
        for sequence in plan.admitted:
            if sequence.saved is not None:
                self._runner.restore(sequence)
        if plan.preempted or plan.admitted:
            self._runner.set_sampling(self._scheduler.running)

    def _note(self, chunk: Chunk) -> None:
        """Count what was computed of a prompt, and let a complete one be found."""
        self._prefilled_tokens += chunk.end - chunk.start
        if chunk.completes:
            self._cached_tokens += chunk.sequence.num_cached
            self._blocks.publish(chunk.sequence)

    def _collect(self, flight: _Flight) -> list[Output]:
        outputs: list[Output] = []
        ended: list[Sequence] = []
        records = flight.read()
        rows, statuses = records[:, :-1].astype(np.uint16), records[:, -1].tolist()
        for sequence, row, status in zip(flight.sequences, rows, statuses, strict=True):
            if sequence.gone:
                continue
            frames = sequence.append(row, status == Status.STOP)
            finish_reason = _FINISH.get(status)
            if finish_reason is not None:
                ended.append(sequence)
            outputs.append(Output(sequence, frames, finish_reason))
        for sequence in ended:
            self._remove(sequence)
        return outputs

    def _remove(self, sequence: Sequence) -> None:
        sequence.gone = True
        if sequence.slot is None:
            self._scheduler.drop(sequence)
            return
        self._runner.release(self._scheduler.remove(sequence))
        self._runner.set_sampling(self._scheduler.running)

"""Runs a model over a batch: turns what the scheduler decided into tensors, and tensors into records."""

import contextlib
import functools
import math
from collections.abc import Callable
from collections.abc import Sequence as Rows
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stentor.engine import sampler
from stentor.engine.cuda_graph import PrefillGraphs, StepGraphs, capture_on, own_stream
from stentor.engine.kv_cache import KVCache
from stentor.engine.landing import Landing, upload
from stentor.engine.memory import one_out_of_memory
from stentor.engine.model import SpeechLM
from stentor.engine.noise import stream_key
from stentor.engine.prefill import Prefill, pack, shape_of, spans_of
from stentor.engine.sampler import Advance, Draw, most_candidates
from stentor.engine.scheduler import Chunk, Removal
from stentor.engine.sequence import Sequence
from stentor.engine.state import BatchState, Status
from stentor.engine.step import DecodeStep
from stentor.layers.attention import AttentionBackend
from stentor.request import Array

# Block tables are cut to the longest sequence of the batch, to a multiple of this many positions: shapes
# repeat, and vector kernels leave no remainder, which they would round otherwise.
_LENGTH_STEP = 64

# What the checkpoints' usual top_k makes of a batch; its graphs are captured before the first request.
_USUAL_CANDIDATES = 64


class ModelRunner:
    """One model, its cache and the state of its batch; slots are its rows, as the scheduler numbers them.

    Everything is put in the order of one stream; only `save` and reading what landed wait for the device.
    """

    def __init__(
        self,
        model: SpeechLM,
        attention: AttentionBackend,
        cache: KVCache,
        max_running: int,
        max_context: int,
        advance: Advance = sampler.advance,
        *,
        graphs: bool = True,
    ) -> None:
        device, shape = model.device, model.shape
        on_gpu = device.type == "cuda"
        self._model = model
        self._cache = cache
        self._stream = own_stream(device, urgent=True) if on_gpu else None
        self._blocks_step = _LENGTH_STEP // math.gcd(_LENGTH_STEP, cache.block_size)
        self._max_blocks = -(-max_context // cache.block_size) + self._blocks_step
        self._codebooks, self._codebook_size = shape.num_codebooks, shape.codebook_size
        self._voice_words = shape.voice_size // 2
        # A fused sampler ranks all codes whatever is asked for: fewer graphs.
        self._ranks_few = advance is sampler.advance
        self._candidates = 1 if self._ranks_few else 0
        # Without it such a model is of little use; its checkpoints ask for it.
        self._always_penalises = self._penalises = shape.nested
        with self.in_order():
            self._state = BatchState.allocate(max_running, self._codebooks, self._max_blocks, device)
            # To make their views takes longer than to keep them.
            self._rows = functools.cache(self._state.rows)
            self._idle = self._state.copy_row(0)
            self._landing = Landing(max_running + 1, self._codebooks + 1, device)
            self._step = DecodeStep(model, attention, cache, advance)
            self._prefill = Prefill(model, attention, cache, advance)
        self._graphs: StepGraphs | None = None
        self._prefill_graphs: PrefillGraphs | None = None
        if self._stream is not None and graphs and not attention.gathers:
            parts = self._state, capture_on(self._stream), cache.block_size
            self._graphs = StepGraphs(self._step, *parts)
            if not attention.plans:
                self._prefill_graphs = PrefillGraphs(self._prefill, *parts, self._voice_words)

    def in_order(self) -> contextlib.AbstractContextManager[Any]:
        """Within it, what is enqueued goes to the runner's own stream."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def warm_up(self, *, largest_only: bool = False) -> None:
        """Compile and capture whatever a usual request needs, or only what takes the most memory."""
        with self.in_order():
            usual = _USUAL_CANDIDATES if self._ranks_few else 0
            if self._graphs is not None:
                self._graphs.warm_up(usual, largest_only, self._penalises)
            if self._prefill_graphs is not None:
                self._prefill_graphs.warm_up(usual, largest_only)
            if self._graphs is None and self._stream is not None:
                # What a step takes that is not captured is known when the largest has run; its rows are idle.
                self._step(self._state, self._max_blocks, self._candidates, self._penalises)

    def decode(self, start: int, end: int, longest: int, captured: bool = True) -> None:
        """One step of the sequences in the slots [start, end), the furthest of which computes `longest`.

        It may only be `captured` if no other runs: a graph moves the rows on with which it pads.
        Raises torch.OutOfMemoryError before any row has moved on.
        """
        blocks = longest // self._cache.block_size + 1
        with one_out_of_memory():
            if self._graphs is not None and captured:
                record = self._graphs(end, blocks, self._candidates, self._penalises)
            else:
                wanted = -(-blocks // self._blocks_step) * self._blocks_step
                record = self._step(self._rows(start, end), wanted, self._candidates, self._penalises)
        self._landing.add(record)

    def prefill(self, chunks: Rows[Chunk], first_slot: int, captured: bool = True) -> None:
        """Compute pieces of prompts; those that complete them, which come first, get the slots from
        `first_slot` on and draw their first row. Raises torch.OutOfMemoryError before anything is drawn.
        """
        complete = sum(chunk.completes for chunk in chunks)
        graphs = self._prefill_graphs
        with one_out_of_memory():
            rows = self._new_rows(chunks)
            if graphs is not None and captured and graphs.fits(chunks):
                record, packed = graphs(chunks, rows, self._candidates)
            else:
                shape = shape_of(chunks, self._codebooks, rows.shape[1], self._voice_words)
                words = pack(chunks, rows, shape, self._cache.block_size)
                spans = spans_of(chunks)
                record, packed = self._prefill(self._upload(words), shape, spans, self._candidates)
        self._landing.add(record[:complete])
        self._state.write_rows(first_slot, packed[:complete])

    def land(self) -> Callable[[], Array]:
        """End a step; gives a function that waits for its records and reads them, as `advance` reports:
        int64 [num_sequences, num_codebooks + 1], those of `decode` before those of `prefill`.
        """
        return self._landing.close()

    def set_sampling(self, running: Rows[Sequence]) -> None:
        """Choose the sampler's work for a new batch."""
        size = self._codebook_size
        self._penalises = self._always_penalises or any(
            sequence.sampling.repetition_penalty not in (None, 1) for sequence in running
        )
        if self._ranks_few:
            draws = (Draw.of(sequence.sampling, size) for sequence in running)
            self._candidates = most_candidates(draws, size)

    def extend(self, extended: list[tuple[int, int, int]]) -> None:
        """Enter further blocks, each (slot, index in its table, block), into the block tables."""
        if extended:
            slots, indices, blocks = self._upload(np.array(extended, np.int64).T.copy()).unbind(0)
            self._state.block_tables.index_put_((slots, indices), blocks)

    def release(self, removal: Removal) -> None:
        """A sequence left: the last row of the batch takes its place."""
        if removal.slot != removal.last:
            self._state.write_rows(removal.slot, self._state.copy_row(removal.last))
        self._state.write_rows(removal.last, self._idle)

    def reset(self) -> None:
        """Forget a step that failed on its way: no record of it lands, and no row is left to run on."""
        self._landing.close()
        self._state.packed[:] = self._idle

    def save(self, removal: Removal) -> None:
        """Put a sequence aside that makes room, exactly as it is; to be called before `release`."""
        row = self._state.copy_row(removal.slot)
        removal.sequence.saved = (row, self._cache.copy_out(removal.blocks))

    def restore(self, sequence: Sequence) -> None:
        """Continue a saved sequence in another slot and other blocks."""
        row, saved = sequence.saved
        sequence.saved = None
        assert sequence.slot is not None, "the scheduler gave it one"
        self._cache.copy_in(sequence.blocks[: saved.shape[1]], saved)
        table = np.zeros((1, self._max_blocks), np.int64)
        table[0, : len(sequence.blocks)] = sequence.blocks
        BatchState.over(row, self._codebooks).block_tables[...] = self._upload(table)
        self._state.write_rows(sequence.slot, row)

    def _new_rows(self, chunks: Rows[Chunk]) -> Array:
        """Packed rows of sequences that are about to draw their first row; idle where a prompt goes on."""
        rows = BatchState.idle(len(chunks), self._codebooks, self._max_blocks)
        for row, chunk in enumerate(chunks):
            if not chunk.completes:
                continue
            sequence = chunk.sequence
            draw = Draw.of(sequence.sampling, self._codebook_size)
            rows.status[row] = Status.RUNNING
            rows.positions[row] = len(sequence.prompt) - 1
            rows.max_rows[row] = sequence.max_rows
            rows.guard_rows[row] = sequence.guard_rows or sequence.max_rows + 1
            rows.noise_key[row] = stream_key(sequence.sampling.seed or 0)
            rows.temperature[row] = draw.temperature
            rows.top_p[row] = draw.top_p
            rows.top_k[row] = draw.top_k
            rows.repetition_penalty[row] = draw.repetition_penalty
            rows.block_tables[row, : len(sequence.blocks)] = sequence.blocks
        packed: Array = rows.packed
        return packed

    def _upload(self, words: Array) -> Tensor:
        return upload(words, self._model.device)

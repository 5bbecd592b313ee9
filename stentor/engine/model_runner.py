"""Runs a model over a batch: turns what the scheduler decided into tensors, and tensors into rows."""

import math
from collections.abc import Sequence as Rows

import numpy as np
import torch
from torch import Tensor

from stentor.engine.kv_cache import KVCache
from stentor.engine.model import SpeechLM
from stentor.engine.noise import stream_key
from stentor.engine.sampler import Advance, Draw, advance, most_candidates
from stentor.engine.scheduler import Removal
from stentor.engine.sequence import Sequence
from stentor.engine.state import BatchState, Status
from stentor.layers.attention import AttentionBackend
from stentor.layers.context import DecodeBatch, PrefillBatch, PrefillSpan
from stentor.request import Array

# Block tables are cut to the longest sequence of the batch, to a multiple of this many positions: shapes
# repeat, and vector kernels leave no remainder, which they would round otherwise.
_LENGTH_STEP = 64

# Prefills are padded to a multiple of this many positions: libraries keep what they prepared for each
# size that they meet, and a server would meet them all.
_PREFILL_STEP = 64


class ModelRunner:
    """One model, its cache and the state of its batch; slots are its rows, as the scheduler numbers them."""

    def __init__(
        self,
        model: SpeechLM,
        attention: AttentionBackend,
        cache: KVCache,
        max_running: int,
        max_context: int,
        block_size: int,
        advance: Advance = advance,
    ) -> None:
        self._model = model
        self._attention = attention
        self._cache = cache
        self._block_size = block_size
        self._advance = advance
        self._blocks_step = _LENGTH_STEP // math.gcd(_LENGTH_STEP, block_size)
        max_blocks = -(-max_context // block_size) + self._blocks_step
        self._state = BatchState.allocate(max_running, model.shape.num_codebooks, max_blocks, model.device)
        self._candidates = 1

    @torch.inference_mode()
    def prefill(self, sequences: Rows[Sequence], first_slot: int) -> Array:
        """Compute the prompts of new sequences, in the slots from `first_slot` on, and draw their first rows.

        Returns:
            int64 [num_sequences, num_codebooks + 1], as `advance` reports.
        """
        for slot, sequence in enumerate(sequences, first_slot):
            self._write_row(slot, sequence)
        prompts = [sequence.prompt[sequence.num_cached :] for sequence in sequences]
        rows = np.concatenate(prompts)
        padding = -len(rows) % _PREFILL_STEP
        rows = np.pad(rows, ((0, padding), (0, 0)))
        prompt = torch.from_numpy(rows).to(self._model.device, torch.int64)
        batch = self._prefill_batch(sequences, padding)
        hidden = self._model.embed_prompt(prompt)
        hidden = self._model.forward(hidden, batch, self._cache.data, self._attention)
        last = torch.tensor([span.end - 1 for span in batch.spans], device=hidden.device)
        logits = self._model.logits(hidden[last])
        state = self._state.rows(first_slot, first_slot + len(sequences))
        return self._read(self._advance(logits, state, self._model.shape, self._candidates))

    @torch.inference_mode()
    def decode(self, num_running: int, longest: int) -> Array:
        """One step of the sequences in the slots before `num_running`, the longest of `longest` positions.

        Returns:
            int64 [num_running, num_codebooks + 1], as `advance` reports.
        """
        wanted = -(-(longest // self._block_size + 1) // self._blocks_step) * self._blocks_step
        return self._read(self._decode(num_running, wanted, self._candidates))

    def _decode(self, size: int, num_blocks: int, candidates: int) -> Tensor:
        """The step itself: no look at a value, no shape that hangs on one; three numbers choose its graph."""
        state = self._state.rows(0, size)
        block = state.positions // self._block_size
        slots = state.block_tables.gather(1, block[:, None])[:, 0] * self._block_size
        slots = slots + state.positions % self._block_size
        batch = DecodeBatch(state.positions, slots, state.block_tables[:, :num_blocks])
        hidden = self._model.embed_rows(state.last_rows)
        hidden = self._model.forward(hidden, batch, self._cache.data, self._attention)
        running = state.status == Status.RUNNING
        record = self._advance(self._model.logits(hidden), state, self._model.shape, candidates)
        state.positions.add_(running)
        return record

    def set_sampling(self, running: Rows[Sequence]) -> None:
        """Choose the sampler's work for a new batch."""
        size = self._model.shape.codebook_size
        self._candidates = most_candidates((Draw.of(sequence.sampling, size) for sequence in running), size)

    def extend(self, extended: list[tuple[int, int, int]]) -> None:
        """Enter further blocks, each (slot, index in its table, block), into the block tables."""
        if extended:
            slots, indices, blocks = torch.tensor(extended, device=self._model.device).unbind(1)
            self._state.block_tables[slots, indices] = blocks

    def release(self, removal: Removal) -> None:
        """A sequence left: the last row of the batch takes its place."""
        if removal.slot != removal.last:
            self._state.write_row(removal.slot, self._state.copy_row(removal.last))
        self._state.clear_row(removal.last)

    def save(self, removal: Removal) -> None:
        """Put a sequence aside that makes room, exactly as it is; to be called before `release`."""
        row = self._state.copy_row(removal.slot)
        removal.sequence.saved = (row, self._cache.copy_out(removal.blocks))

    def restore(self, sequence: Sequence, slot: int) -> None:
        """Continue a saved sequence in another slot and other blocks."""
        row, saved = sequence.saved
        sequence.saved = None
        self._cache.copy_in(sequence.blocks[: saved.shape[1]], saved)
        self._state.write_row(slot, row)
        self._write_blocks(slot, sequence)

    def _prefill_batch(self, sequences: Rows[Sequence], padding: int) -> PrefillBatch:
        """One upload for all that the forward pass must know of these prompts."""
        spans: list[PrefillSpan] = []
        tables = np.zeros((len(sequences), max(len(sequence.blocks) for sequence in sequences)), np.int64)
        # Rows that pad the batch stand, like idle rows of a step, at position 0 of block 0.
        positions, slots = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        start = 0
        for table, sequence in zip(tables, sequences, strict=True):
            table[: len(sequence.blocks)] = sequence.blocks
            position = np.arange(sequence.num_cached, len(sequence.prompt))
            positions.append(position)
            slots.append(table[position // self._block_size] * self._block_size + position % self._block_size)
            spans.append(PrefillSpan(start, start + len(position), len(sequence.prompt)))
            start += len(position)
        starts = np.array([0, *(span.end for span in spans)])
        contexts = np.array([span.context for span in spans])
        nowhere = np.zeros(padding, np.int64)
        numbers = (*positions, nowhere, *slots, nowhere, tables.ravel(), starts, contexts)
        sizes = [start + padding, start + padding, tables.size, len(starts), len(contexts)]
        parts = torch.split(torch.from_numpy(np.concatenate(numbers)).to(self._model.device), sizes)
        return PrefillBatch(
            parts[0], parts[1], parts[2].view(tables.shape), parts[3].int(), parts[4].int(), tuple(spans)
        )

    def _write_row(self, slot: int, sequence: Sequence) -> None:
        state, draw = self._state, Draw.of(sequence.sampling, self._model.shape.codebook_size)
        state.clear_row(slot)
        state.status[slot] = Status.RUNNING
        state.positions[slot] = len(sequence.prompt)
        state.countdown[slot] = -1
        state.max_rows[slot] = sequence.max_rows
        state.guard_rows[slot] = sequence.guard_rows or sequence.max_rows + 1
        state.noise_key[slot] = stream_key(sequence.sampling.seed or 0)
        state.temperature[slot] = draw.temperature
        state.top_p[slot] = draw.top_p
        state.top_k[slot] = draw.top_k
        self._write_blocks(slot, sequence)

    def _write_blocks(self, slot: int, sequence: Sequence) -> None:
        row = self._state.block_tables[slot]
        row.zero_()
        row[: len(sequence.blocks)] = torch.tensor(sequence.blocks, device=row.device)

    @staticmethod
    def _read(record: Tensor) -> Array:
        return record.cpu().numpy()

"""One prefill of several prompts, or pieces of them: all that it must know is one upload."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import numpy as np
import torch
from torch import Tensor

from stentor.engine.arrays import Values
from stentor.engine.model import NestedLM
from stentor.engine.scheduler import Chunk
from stentor.engine.state import BatchState
from stentor.engine.step import Forward
from stentor.layers.context import PrefillBatch, PrefillSpan
from stentor.request import Array

# Prefills are padded to a multiple of this many positions: libraries keep what they prepared for each
# size that they meet, and a server would meet them all.
_PREFILL_STEP = 64


@dataclass(frozen=True)
class PrefillShape:
    """The fixed sizes of a prefill: positions, sequences, blocks of the longest, words of a row of state and
    of a voice.
    """

    tokens: int
    sequences: int
    blocks: int
    codebooks: int
    row_words: int
    voice_words: int = 0

    @property
    def sizes(self) -> list[int]:
        """Of the upload's parts: rows, positions, slots, tables, starts, contexts, ends, new rows, voices."""
        tokens, sequences = self.tokens, self.sequences
        return [
            tokens * (1 + self.codebooks),
            tokens,
            tokens,
            sequences * self.blocks,
            sequences + 1,
            sequences,
            sequences,
            sequences * self.row_words,
            sequences * self.voice_words,
        ]


def shape_of(chunks: Rows[Chunk], codebooks: int, row_words: int, voice_words: int = 0) -> PrefillShape:
    """The sizes that just hold the chunks."""
    tokens = sum(chunk.end - chunk.start for chunk in chunks)
    return PrefillShape(
        tokens + -tokens % _PREFILL_STEP,
        len(chunks),
        max(len(chunk.sequence.blocks) for chunk in chunks),
        codebooks,
        row_words,
        voice_words,
    )


def pack(chunks: Rows[Chunk], rows: Array, shape: PrefillShape, block_size: int) -> Array:
    """The upload, int64: everything about the chunks, and the packed state rows that begin with them.

    Rows that pad stand, like idle rows of a step, at position 0 of block 0; sequences that pad have no rows.
    """
    upload = np.zeros(sum(shape.sizes), np.int64)
    parts = np.split(upload, list(accumulate(shape.sizes))[:-1])
    prompt, positions, slots, tables, starts, contexts, ends, new_rows, voices = parts
    prompt, voices = prompt.reshape(shape.tokens, -1), voices.reshape(shape.sequences, -1)
    tables = tables.reshape(shape.sequences, -1)
    start = 0
    for number, chunk in enumerate(chunks):
        end = start + chunk.end - chunk.start
        position = np.arange(chunk.start, chunk.end)
        tables[number, : len(chunk.sequence.blocks)] = chunk.sequence.blocks
        prompt[start:end] = chunk.sequence.prompt[chunk.start : chunk.end]
        positions[start:end] = position
        slots[start:end] = tables[number, position // block_size] * block_size + position % block_size
        starts[number + 1 :] = end
        contexts[number] = chunk.end
        ends[number] = end - 1
        if chunk.sequence.voice is not None:
            voices[number] = chunk.sequence.voice.view(np.int64)
        start = end
    new_rows.reshape(shape.sequences, -1)[:] = rows
    return upload


class Prefill(Forward):
    """Computes packed prompts and draws the first row of those that are complete."""

    @torch.inference_mode()
    def __call__(
        self, upload: Tensor, shape: PrefillShape, spans: tuple[PrefillSpan, ...], candidates: int
    ) -> tuple[Values, Tensor]:
        """What `advance` reports of each sequence, and their packed rows of state after it.

        A sequence whose row is idle, because its prompt goes on, or because it only pads, reads -1. The
        `spans` are for backends that loop over them; no other looks at the host.
        """
        parts = torch.split(upload, shape.sizes)
        prompt, positions, slots, tables, starts, contexts, ends, new_rows, voices = parts
        prompt, tables = prompt.view(shape.tokens, -1), tables.view(shape.sequences, -1)
        batch = PrefillBatch(
            positions, slots, tables, starts.int(), contexts.int(), spans, token_ids=prompt[:, 0]
        )
        if shape.voice_words:
            vectors = voices.view(torch.float32).view(shape.sequences, -1)
            owner = torch.bucketize(torch.arange(shape.tokens, device=starts.device), starts[1:], right=True)
            own = vectors[owner.clamp(max=shape.sequences - 1)]
            embedded = cast(NestedLM, self._model).embed_prompt(prompt, own)
        else:
            embedded = self._model.embed_prompt(prompt)
        hidden = self._forward(embedded, batch)
        state = BatchState.over(new_rows.view(shape.sequences, -1), shape.codebooks)
        return self._draw(hidden.index_select(0, ends), state, candidates), state.packed


def spans_of(chunks: Rows[Chunk]) -> tuple[PrefillSpan, ...]:
    """Where the chunks lie among the rows of their prefill."""
    ends = accumulate(chunk.end - chunk.start for chunk in chunks)
    return tuple(
        PrefillSpan(end - (chunk.end - chunk.start), end, chunk.end)
        for chunk, end in zip(chunks, ends, strict=True)
    )

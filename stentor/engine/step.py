"""One decode step of the whole batch: a fixed sequence of operations on buffers that never move."""

import math
from typing import cast

import torch
from torch import Tensor

from stentor.engine import sampler
from stentor.engine.arrays import Values
from stentor.engine.kv_cache import KVCache
from stentor.engine.model import NestedLM, SpeechLM
from stentor.engine.repetition import penalise
from stentor.engine.sampler import Advance
from stentor.engine.state import BatchState
from stentor.layers.attention import AttentionBackend
from stentor.layers.context import Batch, DecodeBatch


class Forward:
    """A model over one batch after another, and the draw behind it; what a step and a prefill share.

    On a CPU `sampler.advance`, and no other, runs on NumPy's views of the state.
    """

    def __init__(
        self, model: SpeechLM, attention: AttentionBackend, cache: KVCache, advance: Advance
    ) -> None:
        self._model = model
        self._attention = attention
        self._cache = cache
        self._advance = advance
        self._on_arrays = model.device.type == "cpu" and advance is sampler.advance

    def _forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        return self._model.forward(hidden, batch, self._cache.data, self._attention)

    def _draw(self, hidden: Tensor, state: BatchState, candidates: int, penalises: bool = False) -> Values:
        logits = self._model.logits(hidden)
        if penalises:
            logits = penalise(logits, state, self._model.shape)
        rows = state.arrays if self._on_arrays else state
        if self._model.shape.nested:
            return self._draw_frames(hidden, logits, rows, state, candidates)
        return self._advance(logits, rows, self._model.shape, candidates)

    def _draw_frames(
        self, hidden: Tensor, logits: Tensor, rows: BatchState, state: BatchState, candidates: int
    ) -> Values:
        model, shape = cast(NestedLM, self._model), self._model.shape

        def draw(scores: Tensor, codebook: int) -> Tensor:
            drawn = sampler.sample(scores, rows, candidates, codebook)
            return torch.as_tensor(drawn)[:, 0]

        early = state.step[:, None] < shape.fewest_rows
        logits[..., shape.end_code].masked_fill_(early, -math.inf)
        codes = model.frame(hidden, draw(logits, 0), draw, self._attention)
        return sampler.move(codes.numpy() if self._on_arrays else codes, rows, shape)


class DecodeStep(Forward):
    """Embedding, layers, head, sampling, the delay pattern's machine and the feedback of what it drew.

    It looks at no value and allocates nothing whose size hangs on one, so three numbers (rows, blocks,
    candidates) and whether it penalises say all that it does: `engine.cuda_graph` captures it by them.
    """

    @torch.inference_mode()
    def __call__(
        self, state: BatchState, num_blocks: int, candidates: int, penalises: bool = False
    ) -> Values:
        """Draw the next row of each of the state's sequences, of at most `num_blocks` blocks; see `advance`.

        `penalises` says whether any of them wants a repetition penalty.
        Idle and ended rows are computed too, but write nothing: only the place in the cache at which they
        stand, which is block 0 or their own.
        """
        size = self._cache.block_size
        positions = state.positions.contiguous()
        block = state.block_tables.gather(1, (positions // size)[:, None])[:, 0]
        batch = DecodeBatch(positions, block * size + positions % size, state.block_tables[:, :num_blocks])
        hidden = self._forward(self._model.embed_rows(state.last_rows), batch)
        return self._draw(hidden, state, candidates, penalises)

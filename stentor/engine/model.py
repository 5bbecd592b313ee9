"""What the engine asks of a language model: its geometry and a few pure functions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stentor.layers.attention import AttentionBackend
from stentor.layers.context import Batch


class Redraw(NamedTuple):
    """A code that stands at least `limit` times among its codebook's last `window` rows, at most 16, is drawn
    again, from the plain distribution: repetition-aware sampling (VALL-E 2, arXiv:2406.05370).
    """

    window: int
    limit: int


@dataclass(frozen=True)
class LMShape:
    """The geometry that the engine needs, and how the model wants to be sampled.

    A row holds one code per codebook; codes run to `codebook_size`, of which `begin_code` fills the ramp of
    the delay pattern and `end_code` ends the content. Keys and values of one position take
    [num_layers, 2 * num_kv_heads, head_dim] numbers of `dtype`.

    Of a `nested` model (`NestedLM`) a row is a frame, without a delay pattern, and a row whose first code is
    `end_code` ends the content and is none; before `fewest_rows` no end is drawn. Of one with a `voice_size`
    a prompt may hold a voice's vector of that size.
    """

    num_codebooks: int
    codebook_size: int
    begin_code: int
    end_code: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    dtype: torch.dtype
    redraw: Redraw | None = None
    nested: bool = False
    fewest_rows: int = 0
    voice_size: int = 0

    @property
    def span(self) -> int:
        """Rows over which the codes of one frame are spread."""
        return 1 if self.nested else self.num_codebooks

    @property
    def position_bytes(self) -> int:
        """Bytes of keys and values that one position takes over all layers."""
        return self.num_layers * 2 * self.num_kv_heads * self.head_dim * self.dtype.itemsize


class SpeechLM(Protocol):
    """A causal model over text ids and rows of codes, without any state of its own.

    What it computes for one token or row must not depend, to the last bit, on the others of the same call:
    that is what makes a seed say the same in any batch (`layers.linear` and `layers.attention` do their
    part).
    """

    shape: LMShape
    device: torch.device

    def embed_prompt(self, prompt: Tensor) -> Tensor:
        """Embed int64 [num_tokens, 1 + num_codebooks]: a text id, or -1 and a row of codes.

        Returns:
            [num_tokens, hidden_size].
        """

    def embed_rows(self, rows: Tensor) -> Tensor:
        """Embed rows of codes, int64 [num_rows, num_codebooks], as [num_rows, hidden_size]."""

    def forward(self, hidden: Tensor, batch: Batch, cache: Tensor, attention: AttentionBackend) -> Tensor:
        """The backbone, [num_tokens, hidden_size] to the same; fills the cache's slots."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm, and scores of codes [num_rows, num_codebooks, codebook_size]; of a nested model those
        of the first codebook alone.
        """


# Draws a code for each row, int64 [num_rows], by scores [num_rows, 1, codebook_size] of the codebook of that
# number.
DrawCodes = Callable[[Tensor, int], Tensor]


class NestedLM(SpeechLM, Protocol):
    """A model that draws the codes of a frame one after the other, each knowing those before it."""

    def embed_prompt(self, prompt: Tensor, voices: Tensor | None = None) -> Tensor:
        """See `SpeechLM.embed_prompt`; with a `voice_size`, `voices` float32 [num_tokens, voice_size] is what
        stands where a token is `VOICE_ROW`: that of its sequence.
        """

    def frame(self, hidden: Tensor, first: Tensor, draw: DrawCodes, attention: AttentionBackend) -> Tensor:
        """The frames, int64 [num_rows, num_codebooks], whose first codes [num_rows] have been drawn from
        `hidden` [num_rows, hidden_size].
        """

"""What the engine asks of a language model: its geometry and three pure functions."""

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
        """Final norm, and scores of codes [num_rows, num_codebooks, codebook_size]."""

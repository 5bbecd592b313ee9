"""What attention libraries ask of a batch, in their widths, made once per batch and not once per layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stentor.layers.context import Batch, DecodeBatch


@dataclass(frozen=True)
class Tables:
    """Block tables int32 [num_sequences, num_blocks] and the keys that each sequence has, int32."""

    blocks: Tensor
    lengths: Tensor


class TablesOf:
    """Gives the tables of a batch, and remembers the last: all layers of a pass ask for the same."""

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self._tables: Tables | None = None

    def __call__(self, batch: Batch) -> Tables:
        if self._tables is None or self._batch is not batch:
            lengths = batch.positions + 1 if isinstance(batch, DecodeBatch) else batch.contexts
            self._batch, self._tables = batch, Tables(batch.block_tables.int(), lengths.int())
        return self._tables


def clear_padding(out: Tensor, starts: Tensor) -> Tensor:
    """`out` [num_tokens, ...] with zeros behind the last span, where a library may have left anything.

    Without a look at `starts`; in place.
    """
    is_padding = torch.arange(len(out), device=out.device) >= starts[-1]
    return out.masked_fill_(is_padding.view(-1, *(1,) * (out.dim() - 1)), 0)

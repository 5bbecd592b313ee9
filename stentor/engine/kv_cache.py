"""The paged keys and values of one engine."""

import torch
from torch import Tensor

from stentor.engine.model import LMShape


class KVCache:
    """Blocks of keys and values, [num_layers, num_blocks, block_size, 2 * num_kv_heads, head_dim].

    The heads of a position hold its keys first, then its values, so that one copy writes both. Block 0
    belongs to nobody: rows that pad a batch read and write it.
    """

    def __init__(self, shape: LMShape, num_blocks: int, block_size: int, device: torch.device) -> None:
        self.block_size = block_size
        size = (shape.num_layers, num_blocks, block_size, 2 * shape.num_kv_heads, shape.head_dim)
        # Zeros, because a masked position may hold anything but a NaN. Untouched pages take no memory yet.
        self.data = torch.zeros(size, dtype=shape.dtype, device=device)

    def copy_out(self, blocks: list[int]) -> Tensor:
        """A copy of the given blocks in host memory, for a sequence that must make room.

        Layer by layer, both ways: a card that is full has no room for a long sequence once more.
        """
        index = self._index(blocks)
        return torch.stack([layer[index].cpu() for layer in self.data])

    def copy_in(self, blocks: list[int], saved: Tensor) -> None:
        """Put what `copy_out` saved into other blocks."""
        index = self._index(blocks)
        for layer, part in zip(self.data, saved, strict=True):
            layer[index] = part.to(layer.device)

    def _index(self, blocks: list[int]) -> Tensor:
        return torch.tensor(blocks, dtype=torch.int64, device=self.data.device)

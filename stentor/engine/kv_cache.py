"""The paged keys and values of one engine, and how many blocks the memory allows."""

import os

import torch
from torch import Tensor

from stentor.config import EngineConfig
from stentor.engine.model import LMShape
from stentor.errors import ConfigError


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
        """A copy of the given blocks in host memory, for a sequence that must make room."""
        return self.data[:, self._index(blocks)].to("cpu", copy=True)

    def copy_in(self, blocks: list[int], saved: Tensor) -> None:
        """Put what `copy_out` saved into other blocks."""
        self.data[:, self._index(blocks)] = saved.to(self.data.device)

    def _index(self, blocks: list[int]) -> Tensor:
        return torch.tensor(blocks, dtype=torch.int64, device=self.data.device)


def count_blocks(shape: LMShape, config: EngineConfig, max_context: int, device: torch.device) -> int:
    """Blocks of the cache, with block 0: as configured in bytes, else enough for every running request.

    Raises:
        ConfigError: they cannot hold even one sequence of `max_context` positions.
    """
    block_bytes = shape.position_bytes * config.block_size
    per_sequence = -(-max_context // config.block_size)
    if config.kv_cache_bytes:
        num_blocks = config.kv_cache_bytes // block_bytes
    else:
        wanted = config.max_running_requests * per_sequence + 1
        num_blocks = min(wanted, int(_free_bytes(device) * 0.8) // block_bytes)
    if num_blocks < per_sequence + 1:
        raise ConfigError(
            f"the KV cache has room for {num_blocks} blocks of {config.block_size} positions, but one "
            f"sequence of {max_context} positions needs {per_sequence + 1}: raise --kv-cache-bytes to at "
            f"least {(per_sequence + 1) * block_bytes} or lower --max-context"
        )
    return num_blocks


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as lines:
            # In KiB; counts what the system would give up of its file cache, which free pages do not.
            return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2

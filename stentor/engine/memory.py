"""What memory goes where: how many blocks of the KV cache there can be, one line that says it all, and how
devices say that there is no more."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace

import torch

from stentor.config import EngineConfig
from stentor.engine.host_memory import host_free_bytes
from stentor.engine.model import LMShape
from stentor.errors import ConfigError
from stentor.layers.attention import BACKENDS
from stentor.layers.device import check_float8

# Of what is free, this share is left to the other stages and to what nobody foresaw.
_SHARE_LEFT = 0.2
# Of what is raised as a plain RuntimeError: by PyTorch's allocator on a CPU, by a driver that captures or
# loads, by cuBLAS.
_NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")

_LOG = logging.getLogger(__name__)


def cache_shape(shape: LMShape, config: EngineConfig, device: torch.device) -> LMShape:
    """`shape` with the dtype of its cache: the model's own, or float8 as configured.

    Raises:
        ConfigError: the attention backend that is asked for does not read float8, or the card does not.
    """
    if config.kv_cache_dtype == "auto":
        return shape
    check_float8("--kv-cache-dtype", "auto", device)
    offer = BACKENDS.get(config.attention_backend)
    if offer is not None and not offer.reads_float8:
        raise ConfigError(
            f"--kv-cache-dtype fp8 does not go with --attention-backend {config.attention_backend}: use auto"
        )
    return replace(shape, dtype=torch.float8_e4m3fn)


def count_blocks(
    shape: LMShape, config: EngineConfig, max_context: int, device: torch.device, needed_bytes: int = 0
) -> int:
    """Blocks of the cache, with block 0: as configured in bytes, else enough for every running request.

    `needed_bytes` of what is free now will be taken by steps and graphs.

    Raises:
        ConfigError: they cannot hold even one sequence of `max_context` positions, or there is less memory.
    """
    block_bytes = shape.position_bytes * config.block_size
    per_sequence = -(-max_context // config.block_size)
    room_bytes = free_bytes(device) - needed_bytes
    if config.kv_cache_bytes:
        num_blocks = config.kv_cache_bytes // block_bytes
        if num_blocks * block_bytes > room_bytes:
            raise ConfigError(
                f"--kv-cache-bytes is {config.kv_cache_bytes}, but beside weights and steps {device} has "
                f"only {max(0, room_bytes)} bytes free: lower it, or leave it at 0"
            )
    else:
        wanted = config.max_running_requests * per_sequence + 1
        num_blocks = min(wanted, int(room_bytes * (1 - _SHARE_LEFT)) // block_bytes)
    if num_blocks < per_sequence + 1:
        raise ConfigError(
            f"the KV cache has room for {num_blocks} blocks of {config.block_size} positions, but one "
            f"sequence of {max_context} positions needs {per_sequence + 1}: raise --kv-cache-bytes to at "
            f"least {(per_sequence + 1) * block_bytes} or lower --max-context"
        )
    return num_blocks


def report(shape: LMShape, num_blocks: int, block_size: int, steps_bytes: int, device: torch.device) -> None:
    """Log what the engine takes: weights, steps with their graphs, keys and values, and what is left."""
    cache_bytes = num_blocks * block_size * shape.position_bytes
    parts = [f"keys and values {_size(cache_bytes)} ({(num_blocks - 1) * block_size} positions)"]
    if device.type == "cuda":
        weights_bytes = torch.cuda.memory_allocated(device) - cache_bytes
        parts = [f"weights {_size(weights_bytes)}", f"steps and graphs {_size(steps_bytes)}", *parts]
    _LOG.info("memory on %s: %s; %s left free", device, ", ".join(parts), _size(free_bytes(device)))


def report_part(what: str, size_bytes: int, device: torch.device) -> None:
    """Log what another stage than the engine takes."""
    _LOG.info("memory on %s: %s %s; %s left free", device, what, _size(size_bytes), _size(free_bytes(device)))


def free_bytes(device: torch.device) -> int:
    """What a process could still get, in a container no more than its limit leaves."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return host_free_bytes()


@contextlib.contextmanager
def one_out_of_memory() -> Iterator[None]:
    """However it is said within that there is no memory, it is torch.OutOfMemoryError without."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
            raise torch.OutOfMemoryError(str(error)) from error
        raise


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"

"""Attention over the paged cache: one signature for all backends, and which of them there are here."""

from typing import Protocol

from torch import Tensor

from stentor.errors import ConfigError
from stentor.layers.attention.sdpa import SdpaBackend
from stentor.layers.context import Batch


class AttentionBackend(Protocol):
    """Attends over each sequence's blocks of one layer, the batch's own keys and values included."""

    def __call__(self, q: Tensor, cache: Tensor, batch: Batch) -> Tensor:
        """Causal grouped-query attention.

        Args:
            q: [num_tokens, num_heads, head_dim], after norm and rotation.
            cache: one layer, [num_blocks, block_size, 2 * num_kv_heads, head_dim]; keys first, then values.
            batch: whose positions these are.

        Returns:
            [num_tokens, num_heads * head_dim]; rows that pad the batch hold anything finite.
        """


BACKENDS: dict[str, type[AttentionBackend]] = {"sdpa": SdpaBackend}


def choose_backend(name: str) -> AttentionBackend:
    """The backend of that name; 'auto' takes the best that works here.

    Raises:
        ConfigError: there is none of that name.
    """
    if name == "auto":
        name = "sdpa"
    if name not in BACKENDS:
        raise ConfigError(f"unknown attention backend {name!r}; choose one of: auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]()

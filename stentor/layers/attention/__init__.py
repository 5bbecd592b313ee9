"""Attention over the paged cache: one signature for all backends, and which of them there are here."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stentor.errors import ConfigError
from stentor.layers.attention.sdpa import SdpaBackend
from stentor.layers.context import Batch


class AttentionBackend(Protocol):
    """Attends over each sequence's blocks of one layer, the batch's own keys and values included.

    One that `gathers` reads whole block tables, whatever of them is in use: it is given narrow ones, and not
    captured in graphs, whose tables are wide. One that `plans` asks the host for a prefill's spans: its
    prefills are not captured.
    """

    gathers: bool
    plans: bool

    def __call__(self, q: Tensor, cache: Tensor, batch: Batch) -> Tensor:
        """Causal grouped-query attention.

        Args:
            q: [num_tokens, num_heads, head_dim], after norm and rotation.
            cache: one layer, [num_blocks, block_size, 2 * num_kv_heads, head_dim]; keys first, then values.
            batch: whose positions these are.

        Returns:
            [num_tokens, num_heads * head_dim]; rows that pad the batch hold anything finite.
        """


@dataclass(frozen=True)
class Offer:
    """A backend: how to make it, what it needs, and what to do where that is not there.

    `module` must be importable; the card's major compute capability lies between the two. It may not read
    a cache in float8.
    """

    make: Callable[[], AttentionBackend]
    module: str = ""
    remedy: str = ""
    least_capability: int = 0
    most_capability: int = 99
    reads_float8: bool = False


def _triton() -> AttentionBackend:
    from stentor.layers.triton.attention import TritonBackend

    return TritonBackend()


def _flashinfer() -> AttentionBackend:
    import flashinfer

    from stentor.layers.attention.libraries.flashinfer import FlashInferBackend

    return FlashInferBackend(flashinfer)


def _fa3() -> AttentionBackend:
    from flash_attn_interface import flash_attn_with_kvcache

    from stentor.layers.attention.libraries.fa3 import Fa3Backend

    return Fa3Backend(flash_attn_with_kvcache)


def _sage() -> AttentionBackend:
    from sageattention import sageattn

    from stentor.layers.attention.libraries.sage import SageBackend

    return SageBackend(sageattn, _triton())


# In the order in which 'auto' tries them. Those behind 'sdpa' must be asked for: they have not shown yet that
# they are faster here, and they do not give a seed the same codes in any batch.
BACKENDS: dict[str, Offer] = {
    "triton": Offer(
        _triton, "triton", "it comes with PyTorch for CUDA", least_capability=8, reads_float8=True
    ),
    "sdpa": Offer(SdpaBackend, reads_float8=True),
    "flashinfer": Offer(_flashinfer, "flashinfer", "pip install flashinfer-python", least_capability=9),
    "fa3": Offer(
        _fa3,
        "flash_attn_interface",
        "build the folder hopper of github.com/Dao-AILab/flash-attention",
        least_capability=9,
        most_capability=9,
    ),
    "sage": Offer(_sage, "sageattention", "build github.com/thu-ml/SageAttention", least_capability=8),
}


def why_not(name: str, device: torch.device) -> str:
    """What keeps a backend from running on `device`, or ''."""
    offer = BACKENDS[name]
    if not offer.module:
        return ""
    if device.type != "cuda":
        return f"needs a GPU, the device is {device.type}"
    if importlib.util.find_spec(offer.module) is None:
        return f"{offer.module} is not installed: {offer.remedy}"
    major, minor = torch.cuda.get_device_capability(device)
    if not offer.least_capability <= major <= offer.most_capability:
        wanted = f"{offer.least_capability}.x" + ("" if offer.most_capability < 99 else " or newer")
        return f"needs compute capability {wanted}, the card has {major}.{minor}"
    return ""


def choose_name(name: str, device: torch.device) -> tuple[str, str]:
    """The backend that `name` means on `device`, and why; 'auto' takes the first that works.

    Raises:
        ConfigError: there is none of that name, or it does not work here.
    """
    if name == "auto":
        passed: list[str] = []
        for candidate in BACKENDS:
            obstacle = why_not(candidate, device)
            if not obstacle:
                return candidate, "; ".join(passed) or "the first choice on a GPU"
            passed.append(f"{candidate} {obstacle}")
    if name not in BACKENDS:
        raise ConfigError(f"unknown attention backend {name!r}; choose one of: auto, {', '.join(BACKENDS)}")
    obstacle = why_not(name, device)
    if obstacle:
        raise ConfigError(f"attention backend {name!r} cannot run here: {obstacle}; 'auto' takes what can")
    return name, "as asked for"


def choose_backend(name: str, device: torch.device) -> AttentionBackend:
    """The backend that `name` means on `device`. Raises ConfigError as `choose_name` does."""
    return BACKENDS[choose_name(name, device)[0]].make()

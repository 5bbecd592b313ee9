"""Where tensors live and in which arithmetic: turns 'auto' into what this machine does best."""

import torch

from stentor.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The device that `name` means; 'auto' is the first GPU, or the CPU if there is none.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}: use 'auto', 'cpu', 'cuda' or 'cuda:N'") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not supported: use 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        present = torch.cuda.device_count()
        raise ConfigError(f"device {name!r} is not here ({present} GPUs are): use --device cpu")
    return device


def resolve_dtype(name: str, device: torch.device, quantization: str) -> torch.dtype:
    """The arithmetic that `name` means for a model whose weights are kept as `quantization` says.

    'auto' is bfloat16 on a GPU and on a CPU that multiplies it or may read int8 weights; else float32.
    """
    if name == "auto":
        # Without AVX512-BF16 or AMX, whole weights are faster in float32; int8 ones are read by a kernel for
        # bfloat16, which PyTorch has for AVX2 as well (docs/decisions/0014).
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        vectors = torch.backends.cpu.get_cpu_capability()
        reads_int8 = quantization in ("auto", "int8") and vectors in ("AVX2", "AVX512")
        name = "bfloat16" if device.type == "cuda" or fast or reads_int8 else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def check_float8(flag: str, instead: str, device: torch.device) -> None:
    """Raise ConfigError if `device` is a card without float8, for which no kernel can be compiled."""
    if device.type == "cuda" and (capability := torch.cuda.get_device_capability(device)) < (8, 9):
        found = ".".join(map(str, capability))
        raise ConfigError(
            f"{flag} fp8 needs a GPU of compute capability 8.9 or newer, this one has {found}: use {instead}"
        )

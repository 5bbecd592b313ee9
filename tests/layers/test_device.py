"""'auto' means what this machine does best; what is not there is refused with what is."""

import pytest
import torch

from stentor.config import EngineConfig
from stentor.engine.memory import cache_shape
from stentor.errors import ConfigError
from stentor.layers.device import check_float8, resolve_device, resolve_dtype
from stentor.layers.kernels import choose_kernels

CPU = torch.device("cpu")


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, kind in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda here=available: here)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        assert resolve_device("auto").type == kind


@pytest.mark.parametrize("name", ["gpu", "", "mps", "meta"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="use 'auto', 'cpu', 'cuda' or 'cuda:N'"):
        resolve_device(name)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="2 GPUs are"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "vectors", "quantization", "dtype"),
    [
        (True, False, "AVX512", "none", torch.bfloat16),
        (False, True, "AVX512", "none", torch.bfloat16),
        (False, False, "AVX2", "auto", torch.bfloat16),
        (False, False, "AVX512", "int8", torch.bfloat16),
        (False, False, "AVX2", "none", torch.float32),
        (False, False, "DEFAULT", "auto", torch.float32),
    ],
)
def test_auto_takes_the_arithmetic_in_which_a_cpu_is_fastest(
    avx512_bf16: bool,
    amx: bool,
    vectors: str,
    quantization: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    assert resolve_dtype("auto", CPU, quantization) == dtype
    assert resolve_dtype("auto", torch.device("cuda"), quantization) == torch.bfloat16


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float64"])
def test_a_named_arithmetic_is_taken_as_it_is(name: str) -> None:
    assert resolve_dtype(name, CPU, "auto") == getattr(torch, name)


def test_only_cards_that_have_float8_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda")
    for capability in ((8, 9), (9, 0), (12, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, has=capability: has)
        check_float8("--quantization", "int8", card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    check_float8("--quantization", "int8", CPU)
    monkeypatch.setattr("stentor.layers.kernels.fuses", lambda *_: True)
    with pytest.raises(ConfigError, match=r"--quantization fp8 needs .* 8.9 or newer, .* has 8.0: use int8"):
        choose_kernels("triton", card, "fp8")
    config = EngineConfig(kv_cache_dtype="fp8", attention_backend="triton")
    with pytest.raises(ConfigError, match=r"--kv-cache-dtype fp8 needs .*: use auto"):
        cache_shape(None, config, card)  # type: ignore[arg-type]

"""'auto' means what this machine does best; what is not there is refused with what is."""

import pytest
import torch

from stentor.errors import ConfigError
from stentor.layers import device
from stentor.layers.device import resolve_device, resolve_dtype

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


def test_auto_takes_the_arithmetic_that_the_hardware_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    for multiplies, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(device, "cpu_multiplies_bfloat16", lambda here=multiplies: here)
        assert resolve_dtype("auto", CPU) == dtype
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float64"])
def test_a_named_arithmetic_is_taken_as_it_is(name: str) -> None:
    assert resolve_dtype(name, CPU) == getattr(torch, name)

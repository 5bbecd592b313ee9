"""The backend that is asked for is the one that is taken, or the refusal says why and what to do."""

import importlib.util
from collections.abc import Collection

import pytest
import torch

from stentor.errors import ConfigError
from stentor.layers import attention
from stentor.layers.attention import SdpaBackend, choose_backend, choose_name, why_not
from stentor.layers.kernels import Kernels, choose_kernels, fuses

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A Hopper card and Triton are here; nothing else is."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    install(monkeypatch, {"triton"})
    return monkeypatch


def install(monkeypatch: pytest.MonkeyPatch, modules: Collection[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in modules else None)


def test_the_cpu_has_one_backend_and_says_so_of_the_others() -> None:
    assert isinstance(choose_backend("auto", CPU), SdpaBackend)
    assert choose_name("auto", CPU) == ("sdpa", "triton needs a GPU, the device is cpu")
    for name in attention.BACKENDS:
        if name != "sdpa":
            with pytest.raises(ConfigError, match="cannot run here: needs a GPU"):
                choose_backend(name, CPU)


def test_a_gpu_takes_triton_and_what_is_asked_for_where_it_is_installed(card: pytest.MonkeyPatch) -> None:
    assert choose_name("auto", GPU) == ("triton", "the first choice on a GPU")
    assert "flashinfer is not installed: pip install flashinfer-python" in why_not("flashinfer", GPU)
    install(card, {"flash_attn_interface"})
    assert choose_name("auto", GPU)[0] == "sdpa"
    assert choose_name("fa3", GPU) == ("fa3", "as asked for")


def test_a_card_of_another_kind_is_refused_with_what_is_wanted(card: pytest.MonkeyPatch) -> None:
    install(card, {"triton", "flash_attn_interface"})
    card.setattr(torch.cuda, "get_device_capability", lambda device: (10, 0))
    assert why_not("fa3", GPU) == "needs compute capability 9.x, the card has 10.0"
    card.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert why_not("triton", GPU) == "needs compute capability 8.x or newer, the card has 7.5"
    assert choose_name("auto", GPU)[0] == "sdpa"


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'magic'; choose one of: auto, triton, sdpa"):
        choose_backend("magic", CPU)


def test_kernels_are_fused_where_they_can_be_and_refused_where_they_cannot(card: pytest.MonkeyPatch) -> None:
    assert type(choose_kernels("auto", CPU)) is Kernels
    with pytest.raises(ConfigError, match="--kernels triton cannot run here: they need a GPU"):
        fuses("triton", CPU)
    assert fuses("auto", GPU)
    assert not fuses("eager", GPU)
    install(card, ())
    assert not fuses("auto", GPU)
    with pytest.raises(ConfigError, match="triton is not installed"):
        fuses("triton", GPU)

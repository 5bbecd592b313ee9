"""Laws of the declared chain: four stages, each in the process that suits it."""

from pathlib import Path
from unittest.mock import Mock, call

import pytest
import torch

from stentor.config import Config, override
from stentor.models.higgs_audio.building import arithmetic, chain
from stentor.stages.base import Stage


def build(checkpoint: Path, config: Config) -> Stage:
    raise NotImplementedError


BUILDERS = dict.fromkeys(("preprocess", "encode", "generate", "vocode"), build)


@pytest.mark.parametrize(
    ("device", "beside", "group"),
    [
        ("cpu", "auto", "vocoder"),
        ("cuda:0", "auto", "engine"),
        ("cuda", "off", "vocoder"),
        ("cpu", "on", "engine"),
    ],
)
def test_on_a_gpu_the_vocoder_shares_the_process_of_the_engine(device: str, beside: str, group: str) -> None:
    config = override(Config(), {"model": {"device": device}, "vocoder": {"beside_engine": beside}})
    vocode = chain(Mock(), BUILDERS, Path("here"), config)[-1]
    assert (vocode.name, vocode.group) == ("vocode", group)


@pytest.mark.parametrize(
    ("load_format", "looked_at"), [("auto", ["describe", "check"]), ("dummy", ["describe"])]
)
def test_a_checkpoint_is_looked_at_before_a_stage_is_declared(load_format: str, looked_at: list[str]) -> None:
    model, config = Mock(), override(Config(), {"model": {"device": "cpu", "load_format": load_format}})
    chain(model, BUILDERS, Path("here"), config)
    assert model.mock_calls == [getattr(call, name)(Path("here")) for name in looked_at]


def test_kernels_of_a_stage_run_on_its_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for name in ("cpu", "cuda", "cuda:1"):
        arithmetic(override(Config(), {"model": {"device": name}}))
    assert current == [torch.device("cuda:1")]

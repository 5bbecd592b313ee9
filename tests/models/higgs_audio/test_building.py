"""Laws of the declared chain: four stages, each in the process that suits it."""

from pathlib import Path

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
    vocode = chain(BUILDERS, Path("here"), config)[-1]
    assert (vocode.name, vocode.group) == ("vocode", group)


def test_kernels_of_a_stage_run_on_its_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for name in ("cpu", "cuda", "cuda:1"):
        arithmetic(override(Config(), {"model": {"device": name}}))
    assert current == [torch.device("cuda:1")]

"""Laws of the declared chain: four stages, each in the process that suits it."""

from pathlib import Path

import pytest

from stentor.config import Config, override
from stentor.models.higgs_audio.building import chain
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

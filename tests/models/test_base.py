"""Every registered model keeps the contract of `SpeechModel`, shown on the checkpoint in the package."""

from pathlib import Path

import numpy as np
import pytest

from stentor.config import Config, EngineConfig, ModelConfig, override
from stentor.models import registry
from stentor.request import Audio, SamplingParams, SpeechRequest
from stentor.stages.inline import InlineStages

SMALL = Config(
    model=ModelConfig(device="cpu", dtype="float32"),
    engine=EngineConfig(max_running_requests=2, max_context=512),
)


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return registry.resolve("")


def test_describe_and_stages_agree_on_the_model(checkpoint: Path) -> None:
    model = registry.model_for(checkpoint)
    info = model.describe(checkpoint)
    assert info.sample_rate_hz % info.samples_per_frame == 0
    assert len(info.control_tags) == 43
    assert None not in (info.sampling.temperature, info.sampling.top_p, info.sampling.top_k)
    names = [spec.name for spec in model.stages(checkpoint, SMALL)]
    assert names == ["preprocess", "encode", "generate", "vocode"]


def test_check_counts_what_is_there(checkpoint: Path) -> None:
    assert "tensors" in registry.model_for(checkpoint).check(checkpoint)


def test_the_declared_stages_speak(checkpoint: Path) -> None:
    model = registry.model_for(checkpoint)
    config = override(SMALL, {"model": {"model": str(checkpoint)}})
    request = SpeechRequest("a", "Hello.", sampling=SamplingParams(seed=1), return_codes=True)
    with InlineStages(model.stages(checkpoint, config)) as stages:
        records = stages.run("a", request)
    audio = [record for record in records if isinstance(record, Audio)]
    waveform = np.concatenate([record.waveform for record in audio])
    assert audio[-1].codes is not None
    assert len(waveform) == len(audio[-1].codes) * model.describe(checkpoint).samples_per_frame
    assert np.sqrt(np.mean(waveform**2)) > 0.005

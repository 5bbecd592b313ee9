"""The real engine under random aborts, bad requests and killed workers: all requests end, nothing leaks.

The short run belongs to every test run; `pytest -m soak tests/test_stress.py` is the long one.
"""

from pathlib import Path

import numpy as np
import pytest

from stentor.config import Config, EngineConfig, ModelConfig, PipelineConfig
from stentor.pipeline.pipeline import Pipeline
from stentor.request import Audio, FinishReason, Reference, SamplingParams, SpeechRequest
from stentor.tts import build_pipeline
from tests.checkpoints import make_checkpoint
from tests.pipeline.stress import Load, Report, run

SAMPLES_PER_FRAME = 960


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), seed=3, hidden=32, layers=1)


def pipeline_of(checkpoint: Path, workers: str) -> Pipeline:
    """A cache so small that sequences must make room for each other."""
    config = Config(
        model=ModelConfig(model=str(checkpoint), device="cpu", dtype="float32"),
        engine=EngineConfig(
            max_running_requests=16, max_context=256, kv_cache_bytes=24 * 16 * 2 * 32 * 2 * 4
        ),
        pipeline=PipelineConfig(workers=workers, max_requests=64, restart_limit=10),
    )
    return build_pipeline(config)[1]


def make_request(number: int, bad: bool) -> SpeechRequest:
    """Short and long, streamed or not, some with the codes of a voice; a bad one has an unknown tag."""
    dice = np.random.default_rng(number)
    reference = None
    if number % 3 == 0:
        reference = Reference(codes=dice.integers(0, 1024, (int(dice.integers(5, 40)), 8)))
    return SpeechRequest(
        request_id=f"{number}-{bad}",
        text="<|emotion:bad|>" if bad else "word " * int(dice.integers(1, 10)),
        reference=reference,
        sampling=SamplingParams(
            temperature=0.8, top_k=40, seed=number, max_new_tokens=int(dice.integers(20, 70))
        ),
        stream=number % 2 == 0,
    )


def check(request: SpeechRequest, pieces: list[Audio]) -> None:
    """All the audio that the usage says, and an honest end."""
    last = pieces[-1]
    assert last.usage is not None
    frames = last.usage.completion_tokens - 7
    assert sum(len(piece.waveform) for piece in pieces) == frames * SAMPLES_PER_FRAME
    rows = request.sampling.max_new_tokens
    assert (last.finish_reason is FinishReason.LENGTH) == (last.usage.completion_tokens == rows)


def check_report(report: Report, growth_mib: float) -> None:
    report.check(growth_mib)
    assert report.stats["stages"]["generate"]["kv_blocks_used"] == 0
    assert report.stats["stages"]["generate"]["sequences_running"] == 0
    assert report.stats["stages"]["vocode"]["streams"] == 0


def test_the_engine_leaks_nothing_in_threads(checkpoint: Path) -> None:
    load = Load(requests=120, longest_delay_s=0.3)
    # So few requests still warm up: kernels are prepared for each new length. The long run sees the plateau.
    report = run(lambda: pipeline_of(checkpoint, "thread"), make_request, check, load)
    check_report(report, growth_mib=500)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_two_thousand_requests_and_three_killed_workers(checkpoint: Path) -> None:
    load = Load(requests=2000, kills=3, longest_delay_s=0.5)
    report = run(lambda: pipeline_of(checkpoint, "process"), make_request, check, load)
    print(report)
    check_report(report, growth_mib=48)

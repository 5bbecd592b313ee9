"""The stress test with fake stages; `-m soak` runs it longer and under stranger conditions."""

import random

import numpy as np
import pytest

from stentor.config import PipelineConfig
from stentor.pipeline.pipeline import Pipeline
from stentor.request import Audio, SpeechRequest
from tests.pipeline import fakes
from tests.pipeline.stress import Load, run

LONGEST_FRAMES = 16


def make_request(number: int, bad: bool) -> SpeechRequest:
    stage = list(fakes.KINDS)[number % 4]
    text = f"frames={number % LONGEST_FRAMES + 1}" + f" bad={stage}" * bad
    return fakes.request(f"r{number}", text, samples=20_000 if number % 5 == 0 else 0)


def check(request: SpeechRequest, pieces: list[Audio]) -> None:
    frames = int(fakes.word(request.text, "frames"))
    waveform = np.concatenate([piece.waveform for piece in pieces])
    expected = np.concatenate([fakes.frame_audio(request.request_id, index) for index in range(frames)])
    assert np.array_equal(waveform, expected), "the audio is not what was generated"


@pytest.mark.parametrize(("kind", "kills"), [("thread", 0), ("process", 0), ("process", 3)])
def test_every_request_ends_once_and_nothing_leaks(kind: str, kills: int) -> None:
    config = PipelineConfig(workers=kind)  # type: ignore[arg-type]
    report = run(
        lambda: Pipeline(fakes.chain(0.001), config), make_request, check, Load(requests=1000, kills=kills)
    )
    report.check()
    assert report.ends["done"] > 500
    # Whoever is killed while he holds nothing takes nobody with him.
    assert kills or report.ends["lost"] == 0
    assert {gauges["held"] for gauges in report.stats["stages"].values()} == {0}


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(12))
def test_soak(seed: int) -> None:
    dice = random.Random(seed)
    groups = [("a", "a", "b", "c"), ("a", "b", "c", "d"), ("a", "b", "a", "b"), ("a", "a", "a", "a")][
        seed % 4
    ]
    credits = dice.choice([1, 2, 8, 32])
    config = PipelineConfig(workers="process", restart_limit=1000, link_credits=credits)
    load = Load(requests=6000, kills=20, at_once=dice.choice([1, 2]), seed=seed)
    report = run(lambda: Pipeline(fakes.chain(0.001, groups), config), make_request, check, load)
    report.check()

"""Laws of the engine benchmark's loop, on a stage whose every step is known."""

from typing import Any

import numpy as np
import pytest

from stentor.bench.engine import run_level
from stentor.errors import RequestError, to_failure
from stentor.request import FinishReason, Frames, Prompt, SamplingParams, SpeechRequest
from stentor.stages.base import Payload


class Countdown:
    """A generate stage that gives each sequence one frame a step, `frames` in all."""

    def __init__(self, frames: int, *, fails: bool = False) -> None:
        self._frames = frames
        self._fails = fails
        self._left: dict[str, int] = {}
        self.most = 0

    def add(self, payload: Payload) -> None:
        self._left[payload.request_id] = self._frames
        self.most = max(self.most, len(self._left))

    def step(self) -> list[Payload]:
        if self._fails:
            name = next(iter(self._left))
            return [Payload(name, last=True, failure=to_failure(RequestError("too long")))]
        return [self._advance(name) for name in list(self._left)]

    def _advance(self, name: str) -> Payload:
        left = self._left[name]
        codes = np.zeros((1, 8), np.uint16)
        self._left[name] = left - 1
        if left > 1:
            return Payload(name, Frames(codes))
        del self._left[name]
        return Payload(name, Frames(codes, finish_reason=FinishReason.STOP), last=True)

    def has_work(self) -> bool:
        return bool(self._left)

    def abort(self, request_id: str) -> None: ...
    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None: ...


def prompts(count: int) -> list[Prompt]:
    ids: Any = np.zeros(3, np.int32)
    return [Prompt(SpeechRequest(f"r{i}", "text"), ids, SamplingParams()) for i in range(count)]


def test_every_prompt_is_run_and_the_batch_is_kept_full() -> None:
    stage = Countdown(frames=5)
    level = run_level(stage, prompts(7), 3, frame_s=0.04)
    assert len(level.timings) == 7
    assert stage.most == 3
    assert sum(timing.audio_s for timing in level.timings) == pytest.approx(7 * 5 * 0.04)
    assert all(len(timing.gaps_s) == 4 for timing in level.timings)


def test_a_failure_stops_the_measurement() -> None:
    with pytest.raises(RequestError, match="too long"):
        run_level(Countdown(5, fails=True), prompts(1), 1, frame_s=0.04)

"""Laws of the recipe's command line."""

from pathlib import Path

import pytest

from training import train_by_clock, train_encoder
from training.__main__ import STEPS, parse, timed_steps
from training.train_by_clock import TimedSchedule
from training.train_encoder import Clock


class Recorded:
    """Takes the place of a training, and keeps what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[object] = []
        monkeypatch.setattr(train_encoder, "train_encoder", self._take)
        monkeypatch.setattr(train_by_clock, "TimedRun", self._take)

    def _take(self, *arguments: object) -> "Recorded":
        self.asked += [part for part in arguments if isinstance(part, Clock | TimedSchedule)]
        return self

    def run(self) -> None:
        pass


def test_a_device_puts_trainings_by_the_clock_in_place_of_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crowd.json").touch()
    recorded = Recorded(monkeypatch)
    for line in ("--device cpu", "--device cpu --seconds 9 --workers 0 --batch 7 --rate 1e-4 --dropout 0"):
        steps = timed_steps(parse(line.split()))
        assert set(steps) == {"encoder", "language-model"} <= set(STEPS)
        for step in steps.values():
            step(tmp_path)
    assert recorded.asked == [
        Clock(230, 4), TimedSchedule(230, workers=4),
        Clock(9, 0, 7, peak_rate=1e-4), TimedSchedule(9, 7, 0, 1e-4, dropout=0),
    ]  # fmt: skip


def test_every_step_can_be_named() -> None:
    for step in ("all", "crowd", *STEPS):
        assert parse([step]).step == step

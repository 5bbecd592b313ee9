"""Laws of the recipe's command line."""

from pathlib import Path

import pytest

from training import __main__ as main
from training import evaluate, train_by_clock, train_encoder
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


@pytest.mark.parametrize(
    "line",
    ["language-model --seconds 9", "encoder --dropout 0", "decoder --device cuda", "crowd --device cpu"],
)
def test_an_option_that_would_do_nothing_is_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(line.split())
    assert "--device" in capsys.readouterr().err


def test_every_step_can_be_named() -> None:
    for step in ("all", "crowd", *STEPS):
        assert parse([step]).step == step


def test_a_process_that_fails_leaves_no_other_speaking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Process:
        """The first one fails at once; the others would still be speaking."""

        def __init__(self, command: list[str]) -> None:
            self._part = command[-2]

        def wait(self) -> int:
            told.append(self._part)
            return self._part == "0"

    monkeypatch.setattr(main.os, "cpu_count", lambda: 3)
    monkeypatch.setattr(main.subprocess, "Popen", Process)
    monkeypatch.setattr("training.texts.read_bigrams", lambda _: {})
    monkeypatch.setattr("training.data.generate", lambda _: told.append("the rest"))
    main.make_data(tmp_path)
    assert told == ["0", "1", "2", "the rest"]


def test_a_run_goes_on_from_one_checkpoint_that_is_there(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    (folders[1] / "model.safetensors").write_bytes(b"other")
    previous = tmp_path / "previous"
    with pytest.raises(SystemExit, match="--from: there is no"):
        main.keep_start(folders[0], previous)
    # Nothing makes the next call believe that there are weights to go on from.
    assert not previous.exists()
    (folders[0] / "model.safetensors").write_bytes(b"weights")
    for _ in range(2):
        main.keep_start(folders[0], previous)
        assert [path.read_bytes() for path in previous.iterdir()] == [b"weights"]
    with pytest.raises(SystemExit, match="--work-dir"):
        main.keep_start(folders[1], previous)


def test_no_more_sentences_are_scored_than_are_held_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate", "--source", "flite", "--sentences", "401"])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert "400" in capsys.readouterr().err


@pytest.mark.parametrize(("chosen", "used"), [(None, 0.6), (0.0, 0.0), (1.0, 1.0)])
def test_a_temperature_of_nought_is_one(
    chosen: float | None, used: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.states.load_states", lambda _: (None, None, None))
    asked: list[float] = []
    monkeypatch.setattr("training.generate.speak", lambda *_, temperature: asked.append(temperature) or [])
    assert evaluate.state_speaker(tmp_path, "model", chosen)(["Oh."]) == []
    assert asked == [used]

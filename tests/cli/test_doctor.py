"""Laws of `stentor doctor`: it finds what is wrong, says how to mend it, and its status tells."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from stentor.bench import machine
from stentor.cli.main import app
from tests.checkpoints import make_checkpoint
from tests.whisper import WINDOW_S, make_whisper

runner = CliRunner()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("doctor") / "checkpoint")


def test_a_sound_checkpoint_on_a_sound_machine_has_no_problems(checkpoint: Path) -> None:
    done = runner.invoke(app, ["doctor", str(checkpoint)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "nothing is in the way" in done.stdout
    for subject in ("processor", "memory", "attention", "sdpa", "formats", "weights", "24000 Hz"):
        assert subject in done.stdout


def test_a_truncated_file_is_a_problem_with_a_name(checkpoint: Path, tmp_path: Path) -> None:
    broken = make_checkpoint(tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = runner.invoke(app, ["doctor", str(broken)])
    assert done.exit_code == 1
    assert "problem" in done.stdout
    assert "model.safetensors" in done.stdout


def test_no_checkpoint_is_a_problem_but_the_machine_is_still_described(tmp_path: Path) -> None:
    done = runner.invoke(app, ["doctor", str(tmp_path / "nowhere")])
    assert done.exit_code == 1
    assert "processor" in done.stdout
    assert "nowhere" in done.stdout


def test_what_hears_references_is_looked_at_as_well(checkpoint: Path, tmp_path: Path) -> None:
    assert "--asr names what would hear them" in runner.invoke(app, ["doctor", str(checkpoint)]).stdout
    recogniser = str(make_whisper(tmp_path, {}, rounds=0))
    for asr, status, told in (
        (recogniser, 0, f"transcripts   {recogniser}"),
        (str(checkpoint), 1, "supported are whisper"),
    ):
        done = runner.invoke(app, ["doctor", str(checkpoint), "--asr", asr, "--max-seconds", str(WINDOW_S)])
        assert done.exit_code == status, done.output
        assert told in done.stdout


def test_a_busy_machine_is_noted(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "load_average", lambda: 999.0)
    done = runner.invoke(app, ["doctor", str(checkpoint)])
    assert done.exit_code == 0
    assert "note" in done.stdout
    assert "999" in done.stdout


def test_an_unknown_backend_is_a_problem(checkpoint: Path) -> None:
    done = runner.invoke(app, ["doctor", str(checkpoint), "--attention-backend", "magic"])
    assert done.exit_code == 1
    assert "magic" in done.stdout


def test_every_device_is_looked_at(checkpoint: Path) -> None:
    done = runner.invoke(app, ["doctor", str(checkpoint), "--device", "cpu,tcp://10.0.0.2:9000,cpu"])
    assert done.exit_code == 0, done.output
    assert done.stdout.count("device        cpu, ") == 2
    assert "tcp://10.0.0.2:9000 is not asked" in done.stdout
    assert runner.invoke(app, ["doctor", str(checkpoint), "--device", "cpu,gpu"]).exit_code == 1

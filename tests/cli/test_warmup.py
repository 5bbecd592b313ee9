"""`stentor warmup` serves once and says what that compiled."""

from pathlib import Path

from typer.testing import CliRunner

from stentor.cli.main import app
from tests.checkpoints import make_checkpoint

runner = CliRunner()


def test_a_checkpoint_is_warmed_up_and_the_kernels_are_counted(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    done = runner.invoke(app, ["warmup", str(checkpoint), "--device", "cpu"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    # A CPU needs no kernels but PyTorch's own.
    assert done.stdout.startswith("0 kernels compiled into the libraries' own folders in ")


def test_a_wrong_checkpoint_is_one_line(tmp_path: Path) -> None:
    done = runner.invoke(app, ["warmup", str(tmp_path / "nothing")])
    assert done.exit_code == 1

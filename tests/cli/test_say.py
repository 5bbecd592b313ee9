"""Laws of `stentor say`: a text in, a file out, the same for the same seed, nothing but data on stdout."""

import io
import wave
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from stentor.cli.main import app
from stentor.errors import ConfigError, RequestError
from tests.checkpoints import make_checkpoint

runner = CliRunner()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("say") / "checkpoint", eoc_gain=3.0)


def say(checkpoint: Path, *arguments: str) -> Result:
    options = ["--model", str(checkpoint), "--seed", "1", "--max-new-tokens", "20"]
    return runner.invoke(app, ["say", *arguments, *options])


def test_a_text_becomes_a_file_and_its_codes(checkpoint: Path, tmp_path: Path) -> None:
    output, codes = tmp_path / "out.wav", tmp_path / "codes.npy"
    done = say(checkpoint, "Hello.", "-o", str(output), "--save-codes", str(codes))
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert "seed 1" in done.stderr
    with wave.open(str(output)) as file:
        assert file.getnframes() == len(np.load(codes)) * 960


def test_a_dash_puts_the_file_on_stdout_and_nothing_else(checkpoint: Path, tmp_path: Path) -> None:
    say(checkpoint, "Hello.", "-o", str(tmp_path / "out.wav"))
    done = say(checkpoint, "Hello.", "-o", "-")
    with wave.open(io.BytesIO(done.stdout_bytes)) as file:
        assert file.getnframes() > 0
    assert done.stdout_bytes == (tmp_path / "out.wav").read_bytes()


def test_a_result_that_cannot_be_written_is_refused_before_the_work(checkpoint: Path, tmp_path: Path) -> None:
    assert isinstance(
        say(checkpoint, "Hello.", "-o", str(tmp_path / "no" / "out.wav")).exception, ConfigError
    )
    assert isinstance(say(checkpoint, "Hello.", "-o", "out.doc").exception, RequestError)


@pytest.mark.parametrize("extra", [["--top-p", "0"], ["--temperature", "nan"], ["--voice", "nobody"]])
def test_bad_options_are_errors(checkpoint: Path, tmp_path: Path, extra: list[str]) -> None:
    assert isinstance(
        say(checkpoint, "Hello.", "-o", str(tmp_path / "out.wav"), *extra).exception, RequestError
    )
    assert not (tmp_path / "out.wav").exists()


def test_two_voices_are_one_too_many(checkpoint: Path, tmp_path: Path) -> None:
    both = ["--voice", "default", "--reference", "me.wav"]
    assert isinstance(say(checkpoint, "Hello.", "-o", str(tmp_path / "a.wav"), *both).exception, RequestError)

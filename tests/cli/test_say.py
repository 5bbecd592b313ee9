"""Laws of `stentor say`: a text in, a file out, the same for the same seed, nothing but data on stdout."""

import io
import wave
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from stentor.cli.main import app
from stentor.errors import ConfigError, RequestError
from stentor.server.bodies import SpeechBody
from stentor.tts import SpeechOptions
from tests.checkpoints import make_checkpoint

runner = CliRunner()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("say") / "checkpoint", eoc_gain=3.0)


def say(checkpoint: Path, *arguments: str, stdin: bytes = b"") -> Result:
    options = ["--model", str(checkpoint), "--seed", "1", "--max-new-tokens", "20"]
    return runner.invoke(app, ["say", *arguments, *options], input=stdin)


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


def test_a_dash_reads_the_text_from_stdin(checkpoint: Path, tmp_path: Path) -> None:
    say(checkpoint, "Hello.", "-o", str(tmp_path / "out.wav"))
    say(checkpoint, "-", "-o", str(tmp_path / "piped.wav"), stdin=b"Hello.")
    assert (tmp_path / "piped.wav").read_bytes() == (tmp_path / "out.wav").read_bytes()
    done = say(checkpoint, "-", "-o", str(tmp_path / "no.wav"), stdin=b"Hell\xff.")
    assert isinstance(done.exception, RequestError)
    assert "not utf-8" in str(done.exception)


def test_a_result_that_cannot_be_written_is_refused_before_the_work(checkpoint: Path, tmp_path: Path) -> None:
    assert isinstance(
        say(checkpoint, "Hello.", "-o", str(tmp_path / "no" / "out.wav")).exception, ConfigError
    )
    assert isinstance(say(checkpoint, "Hello.", "-o", "out.doc").exception, RequestError)
    twice = str(tmp_path / "out.wav")
    assert isinstance(say(checkpoint, "Hello.", "-o", twice, "--save-codes", twice).exception, ConfigError)
    assert not (tmp_path / "out.wav").exists()


def test_what_http_shapes_is_shaped_here(checkpoint: Path, tmp_path: Path) -> None:
    say(checkpoint, "Hello.", "-o", str(tmp_path / "plain.wav"))
    wish = ["--speed", "2", "--sample-rate", "8000", "--instructions", "Like a pirate.", "--format", "wav"]
    done = say(checkpoint, "Hello.", "-o", str(tmp_path / "fast"), *wish)
    assert done.exit_code == 0, done.output
    assert "instructions are ignored" in done.stderr
    with wave.open(str(tmp_path / "plain.wav")) as plain, wave.open(str(tmp_path / "fast")) as fast:
        assert (plain.getframerate(), fast.getframerate()) == (24_000, 8_000)
        assert fast.getnframes() == pytest.approx(plain.getnframes() / 6, rel=0.1)


def test_every_option_of_the_http_body_is_an_option_here_and_in_python() -> None:
    """One request serves every door; what is left out is about models, bytes and bodies."""
    elsewhere = {
        *("model", "speaker", "input", "response_format", "stream", "stream_format", "references"),
        *("reference_codes", "ref_audio", "ref_text", "extra_params", "stage_params"),
        *("non_streaming_mode", "task_type"),
    }
    renamed = {"sample_rate": "sample_rate_hz", "initial_codec_chunk_frames": "initial_chunk_frames"}
    asked = set(SpeechBody.model_fields) - elsewhere
    options = set(SpeechOptions.__annotations__) - {"reference"}
    assert options == {renamed.get(name, name) for name in asked}
    # A file is written when it is whole: the first chunk of a stream is nobody's.
    flags = {parameter.name for parameter in get_command(app).commands["say"].params}  # type: ignore[attr-defined]
    assert asked - {"initial_codec_chunk_frames"} <= flags


@pytest.mark.parametrize(
    "extra",
    [
        ["--format", "doc"],
        ["--speed", "9"],
        ["--top-p", "0"],
        ["--temperature", "nan"],
        ["--voice", "nobody"],
    ],
)
def test_bad_options_are_errors(checkpoint: Path, tmp_path: Path, extra: list[str]) -> None:
    assert isinstance(
        say(checkpoint, "Hello.", "-o", str(tmp_path / "out.wav"), *extra).exception, RequestError
    )
    assert not (tmp_path / "out.wav").exists()


def test_two_voices_are_one_too_many(checkpoint: Path, tmp_path: Path) -> None:
    both = ["--voice", "default", "--reference", "me.wav"]
    assert isinstance(say(checkpoint, "Hello.", "-o", str(tmp_path / "a.wav"), *both).exception, RequestError)

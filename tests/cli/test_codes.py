"""Laws of `stentor codes`: what is encoded decodes, and files that are no codes are refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from stentor.audio.formats import encode_file
from stentor.cli.codes import as_npy, read_codes
from stentor.cli.main import app
from stentor.errors import NotFoundError, RequestError
from tests.checkpoints import make_checkpoint
from tests.sound import read_wav

runner = CliRunner()


def test_codes_survive_the_file(tmp_path: Path) -> None:
    codes = np.arange(16).reshape(2, 8)
    (tmp_path / "codes.npy").write_bytes(as_npy(codes))
    np.testing.assert_array_equal(read_codes(tmp_path / "codes.npy"), codes)


def test_files_that_are_no_codes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_codes(tmp_path / "nowhere.npy")
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(RequestError, match="not an"):
        read_codes(tmp_path / "text.npy")
    for damaged in (b"", b"PK\x03\x04 cut off"):
        (tmp_path / "damaged.npy").write_bytes(damaged)
        with pytest.raises(RequestError, match="not an"):
            read_codes(tmp_path / "damaged.npy")
    several = io.BytesIO()
    np.savez(several, a=np.zeros(2))
    (tmp_path / "several.npy").write_bytes(several.getvalue())
    with pytest.raises(RequestError, match="several"):
        read_codes(tmp_path / "several.npy")


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(RequestError, match="not an") as refused:
        read_codes(tmp_path / "objects.npy")
    # Nobody is told how to run it.
    assert "allow_pickle" not in refused.value.message


def test_a_recording_becomes_codes_and_the_codes_a_recording(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    noise = 0.1 * np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    (tmp_path / "me.wav").write_bytes(encode_file(noise, "wav", 24_000))
    model = ["--model", str(checkpoint)]
    done = runner.invoke(
        app, ["codes", "encode", str(tmp_path / "me.wav"), "-o", str(tmp_path / "me.npy"), *model]
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    codes = np.load(tmp_path / "me.npy")
    assert codes.shape == (25, 8)
    done = runner.invoke(
        app, ["codes", "decode", str(tmp_path / "me.npy"), "-o", str(tmp_path / "out.wav"), *model]
    )
    assert done.exit_code == 0, done.output
    waveform, rate = read_wav(tmp_path / "out.wav")
    assert (len(waveform), rate) == (24_000, 24_000)

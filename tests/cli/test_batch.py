"""Laws of `stentor batch`: each text has its file, as `say` would make it, and a bad one stops no other."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from stentor.cli.batch import RESULTS, read_items
from stentor.cli.main import app
from stentor.errors import ConfigError, NotFoundError, RequestError
from tests.checkpoints import make_checkpoint

runner = CliRunner()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("batch") / "checkpoint", eoc_gain=3.0)


def batch(checkpoint: Path, texts: Path | str, folder: Path, *flags: str, stdin: str = "") -> Result:
    options = ["--model", str(checkpoint), "--workers", "thread", "--max-new-tokens", "20", *flags]
    return runner.invoke(app, ["batch", str(texts), "-o", str(folder), *options], input=stdin)


def results(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / RESULTS).read_text().splitlines()
    return {result["id"]: result for result in map(json.loads, lines)}


def test_each_text_becomes_the_file_that_say_makes_of_it(checkpoint: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("Hello.\n\nWas it a question?\n")
    done = batch(checkpoint, texts, tmp_path / "new" / "out", "--seed", "1")
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert "texts said: 2, failed: 0" in done.stderr
    for name, text in (("00001", "Hello."), ("00003", "Was it a question?")):
        said = tmp_path / f"{name}.wav"
        flags = ["--model", str(checkpoint), "--seed", "1", "--max-new-tokens", "20"]
        assert runner.invoke(app, ["say", text, "-o", str(said), *flags]).exit_code == 0
        assert (tmp_path / "new" / "out" / said.name).read_bytes() == said.read_bytes()
    assert results(tmp_path / "new" / "out")["00003"]["seed"] == 1


def test_a_line_of_json_says_more_than_the_flags(checkpoint: Path, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"text": "Hello.", "id": "a"},
        {"text": "Hello.", "id": "b.1", "seed": 2, "sample_rate": 8000},
    ]
    done = batch(
        *(checkpoint, "-", tmp_path, "--seed", "1", "--format", "flac"),
        stdin="\n".join(map(json.dumps, lines)),
    )
    assert done.exit_code == 0, done.output
    told = results(tmp_path)
    assert {name: result["seed"] for name, result in told.items()} == {"a": 1, "b.1": 2}
    assert {result["file"] for result in told.values()} == {"a.flac", "b.1.flac"}
    assert (tmp_path / "b.1.flac").stat().st_size < (tmp_path / "a.flac").stat().st_size


def test_a_voice_of_a_line_replaces_that_of_the_flags(checkpoint: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    lines = [{"text": "Hello."}, {"text": "Hello.", "voice": "other"}]
    texts.write_text("\n".join(map(json.dumps, lines)))
    done = batch(checkpoint, texts, tmp_path, "--reference", str(tmp_path / "missing.wav"))
    assert done.exit_code == 1
    told = results(tmp_path)
    assert "missing.wav" in told["00001"]["error"]
    assert "'other'" in told["00002"]["error"]


def test_what_cannot_be_said_stops_no_other_and_another_run_says_the_rest(
    checkpoint: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("Hello.\nHello <|emotion:elatoin|>.\nHello again.\n")
    done = batch(checkpoint, texts, tmp_path)
    assert done.exit_code == 1
    assert "texts said: 2, failed: 1" in done.stderr
    assert "elation" in results(tmp_path)["00002"]["error"]
    made = (tmp_path / "00001.wav").read_bytes()
    texts.write_text("Hello.\nHello <|emotion:elation|>.\nHello again.\n")
    done = batch(checkpoint, texts, tmp_path)
    assert done.exit_code == 0
    assert "texts said: 1, failed: 0, there already: 2;" in done.stderr
    assert (tmp_path / "00001.wav").read_bytes() == made
    assert (tmp_path / "00002.wav").exists()
    # Nothing left to do is done without a model.
    assert batch(checkpoint.parent / "no-model", texts, tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ("[]", "line 2"),
        ('{"id": "a"}', 'no "text"'),
        ('{"text": 5}', 'no "text"'),
        ('{"text": "a", "id": "../a"}', "a file's name"),
        ('{"text": "a", "id": 5}', "a file's name"),
        ('{"text": "a", "speed": "fast"}', "Expected `float`"),
        ('{"text": "a", "sped": 1}', "unknown field 'sped': use id, text, voice"),
        ('{"text": "a", "id": "00001"}', "used twice"),
        ('{"text": "a", "voice": "a", "reference": "b"}', "two voices"),
    ],
)
def test_a_line_that_is_wrong_is_told_before_any_work(line: str, message: str, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "Hello."}\n' + line + "\n")
    with pytest.raises(RequestError, match="line 2") as caught:
        list(read_items(str(texts)))
    assert message in caught.value.message


def test_what_cannot_be_read_or_written_is_told(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(batch(checkpoint, tmp_path / "no.txt", tmp_path).exception, NotFoundError)
    (tmp_path / "latin.txt").write_bytes(b"Hell\xff.")
    assert isinstance(batch(checkpoint, tmp_path / "latin.txt", tmp_path).exception, NotFoundError)
    refused = batch(checkpoint, "-", tmp_path / "latin.txt" / "out", stdin="Hello.")
    assert isinstance(refused.exception, ConfigError)
    two_voices = batch(checkpoint, "-", tmp_path, "--voice", "a", "--reference", "b", stdin="Hello.")
    assert isinstance(two_voices.exception, RequestError)
    wrong_format = batch(checkpoint, "-", tmp_path, "--format", "ogg", stdin="Hello.")
    assert isinstance(wrong_format.exception, RequestError)
    monkeypatch.setattr("sys.stdin", io.StringIO("One.\nTwo."))
    assert [item.text for item in read_items("-")] == ["One.", "Two."]

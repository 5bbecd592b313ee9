"""Laws of `stentor bench`: the table is for people, the last line is the whole result."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stentor.cli.bench import parse_concurrency
from stentor.cli.main import app
from stentor.errors import ConfigError
from tests.checkpoints import make_checkpoint

runner = CliRunner()


def test_levels_are_numbers_from_1() -> None:
    assert parse_concurrency("1,2, 16") == [1, 2, 16]
    for text in ("", "0", "one", "1,,2", "-1"):
        with pytest.raises(ConfigError, match="--concurrency"):
            parse_concurrency(text)


def test_the_engine_is_measured_against_the_plain_loop(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", eoc_gain=3.0, generation={"max_new_tokens": 24})
    done = runner.invoke(
        app,
        [
            "bench",
            "engine",
            str(checkpoint),
            *("--concurrency", "1,3", "--requests", "1", "--save", str(tmp_path)),
            *("--max-context", "512"),
        ],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "concurrency" in done.stdout
    result = json.loads(lines[-1])
    assert [row["concurrency"] for row in result["rows"]] == [1, 3]
    assert all(row["audio_s_per_s"] > 0 and row["ratio"] > 0 for row in result["rows"])
    assert result["plain"]["requests"] >= 1
    assert result["settings"]["requests_per_caller"] == 1
    (saved,) = tmp_path.glob("*-engine-*.json")
    assert json.loads(saved.read_text()) == result

"""Laws of the report: the table says what the rows say, the saved document is whole."""

import json
from pathlib import Path
from typing import Any

import pytest

from stentor.bench import report
from stentor.bench.level import Level, Timing
from stentor.errors import ConfigError


@pytest.fixture
def result() -> dict[str, Any]:
    levels = [Level(c, wall_s=2.0, timings=[Timing(0.1, 1.0, 3.0)] * c) for c in (1, 16)]
    return report.document("engine", "some/Model-4B", levels, {"requests_per_caller": 1})


def test_the_table_has_a_line_per_level_and_no_empty_column(result: dict[str, Any]) -> None:
    lines = report.table(result["rows"]).splitlines()
    assert len(lines) == 4
    assert "concurrency" in lines[0]
    assert "ITL" not in lines[0]
    assert len({len(line) for line in lines}) == 1
    assert lines[-1].split("|")[1].strip() == "16"


def test_a_comparison_says_how_many_times_as_much(result: dict[str, Any]) -> None:
    report.add_comparison(result, Level(1, wall_s=6.0, timings=[Timing(1.0, 1.0, 3.0)]))
    assert [row["ratio"] for row in result["rows"]] == [3.0, 48.0]
    assert "plain loop" in report.headline(result)
    assert "x plain" in report.table(result["rows"])


def test_what_is_saved_reads_back(result: dict[str, Any], tmp_path: Path) -> None:
    path = report.save(result, tmp_path)
    assert json.loads(path.read_text()) == json.loads(json.dumps(result))
    assert path.name == report.file_name(result)
    moment = result["date"].lower().replace(":", "-")
    assert path.name.startswith(f"{moment}-engine-")
    assert "model-4b" in path.name


def test_saving_where_it_cannot_be_saved_is_a_clear_error(result: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match="cannot save"):
        report.save(result, tmp_path / "file" / "result.json")


def test_a_folder_that_is_not_there_is_made(result: dict[str, Any], tmp_path: Path) -> None:
    assert report.save(result, tmp_path / "new" / "results").parent == tmp_path / "new" / "results"


def test_the_document_names_everything_its_figures_depend_on(result: dict[str, Any]) -> None:
    assert {"date", "model", "stentor", "commit", "machine", "versions", "settings", "rows"} <= set(result)


def test_a_result_that_cannot_be_saved_is_printed_all_the_same(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot save"):
        report.publish(result, tmp_path / "file" / "result.json")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["benchmark"] == "engine"

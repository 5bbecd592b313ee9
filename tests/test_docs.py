"""Laws of the docs: generated pages are current, what exists is documented, links lead somewhere."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import stentor
from docs import generate
from examples.demo import length_s
from stentor.config import settings
from stentor.server.metrics import Metrics

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")],
)


def reference(name: str) -> str:
    return (ROOT / "docs" / "reference" / name).read_text()


@pytest.mark.parametrize("path", generate.pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_generated_pages_are_what_would_be_generated(path: Path) -> None:
    assert path.read_text() == generate.pages()[path], "run `make docs`"


def test_the_newest_result_is_known_by_its_date_not_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dates = {"b": "2026-11-28T09:00:00Z", "a": "2026-11-28T18:00:00Z", "c": "2026-11-28"}
    for name, date in dates.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"date": date}))
    monkeypatch.setattr(generate, "RESULTS", tmp_path)
    assert [result["date"] for result in generate.load_results()] == [dates[name] for name in "cba"]


def test_every_setting_is_documented() -> None:
    page = reference("config.md")
    for item in settings():
        assert f"`{item.flag}`" in page
        assert f"`{item.environment_name}`" in page


def test_every_metric_is_documented() -> None:
    page = reference("metrics.md")
    stats = {"requests": {}, "links": {}, "stages": {}, "workers": {}}
    for family in Metrics(lambda: stats).registry.collect():
        assert f"`{family.name}`" in page, family.name


def test_every_websocket_is_documented() -> None:
    page = reference("sockets.md")
    for path in generate.websockets():
        assert f"`{path}`" in page, path


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{target} does not exist"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_flags_that_pages_speak_of_exist(path: Path) -> None:
    known = set(re.findall(r"--[a-z][a-z-]+", reference("cli.md") + reference("config.md")))
    known |= {f"--no-{item.flag.removeprefix('--')}" for item in settings() if item.type is bool}
    foreign = {"--tts-models", "--tts-openai-url", "--output", "--help", "--url"}
    for line in path.read_text().splitlines():
        if "stentor" in line or "`--" in line:
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)) <= known | foreign, line


def test_the_changelog_opens_with_this_version() -> None:
    versions = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == stentor.__version__
    assert f'version = "{stentor.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90


def test_decision_records_have_their_three_parts() -> None:
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        text = path.read_text()
        assert re.match(r"\d{4}-[a-z0-9-]+\.md$", path.name), path.name
        assert [
            part for part in ("## Context", "## Decision", "## Consequences") if part not in text
        ] == [], path.name
        assert len(text.splitlines()) <= 60, f"{path.name} is longer than a screen"


def readme_block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return next(block for block in blocks if containing in block)


@pytest.mark.parametrize("language", ["python", "sh"])
def test_the_quickstarts_of_the_readme_run_as_they_stand(language: str, tmp_path: Path) -> None:
    if language == "python":
        command = [sys.executable, "-c", readme_block("python", "TTS")]
    else:
        command = [sys.executable, "-m", *shlex.split(readme_block("sh", "stentor say"))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert length_s(tmp_path / "hello.wav") > 0.5

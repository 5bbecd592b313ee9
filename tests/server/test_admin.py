"""Laws of administration: closed unless it is opened twice, by a setting and by a key."""

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stentor.config import ServerConfig
from stentor.errors import ConfigError
from stentor.server.app import create_app
from stentor.server.lifetime import Server, uvicorn_settings
from tests.server.conftest import Front, Running
from tests.server.fakes import INFO, FakePipeline, config, say, voices

Serve = Callable[..., Running]

ROOT_KEY, USER_KEY = "root-secret-key", "user-secret-key"
ROOT, USER = {"Authorization": f"Bearer {ROOT_KEY}"}, {"Authorization": f"Bearer {USER_KEY}"}
ROUTES = [
    ("GET", "/v1/admin/status"),
    ("POST", "/v1/admin/drain"),
    ("DELETE", "/v1/admin/drain"),
    ("POST", "/v1/admin/workers/main/restart"),
    ("PUT", "/v1/admin/log-level"),
]


@pytest.fixture
def access(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "keys.toml"
    path.write_text(f'[root]\nkey = "{ROOT_KEY}"\nadmin = true\n\n[user]\nkey = "{USER_KEY}"\n')
    return {"api_keys_file": str(path)}


def test_it_does_not_exist_unless_it_is_enabled(serve: Serve, access: dict[str, Any]) -> None:
    server = serve(access=access)
    for method, path in ROUTES:
        assert server.http.request(method, path, headers=ROOT).status_code == 404
    assert "/v1/admin/status" not in server.http.get("/openapi.json").json()["paths"]


def test_only_a_key_for_it_opens_it(serve: Serve, access: dict[str, Any]) -> None:
    server = serve(access={**access, "admin": True})
    for method, path in ROUTES:
        assert server.http.request(method, path).status_code == 401
        assert server.http.request(method, path, headers=USER, json={"level": "info"}).status_code == 403
    assert server.http.get("/v1/admin/status", headers=ROOT).status_code == 200
    assert server.http.get("/v1/models", headers=USER).status_code == 200
    assert server.pipeline.restarted == []


def test_it_cannot_be_enabled_without_a_key_for_it() -> None:
    for keys in ({}, {"api_keys": "user-secret-key"}):
        settings = config({**keys, "admin": True})
        with pytest.raises(ConfigError, match="admin = true"):
            create_app(FakePipeline(), INFO, voices(), settings)  # type: ignore[arg-type]


def test_a_drain_is_begun_and_taken_back(serve: Serve, access: dict[str, Any]) -> None:
    server = serve(say(0.1), access={**access, "admin": True})
    speak = {"input": "Hello."}
    drained = server.http.post("/v1/admin/drain", headers=ROOT)
    assert drained.json() == {"draining": True, "open": 0}
    assert server.http.get("/ready").status_code == 503
    assert server.http.post("/v1/audio/speech", json=speak, headers=USER).status_code == 503
    status = server.http.get("/v1/admin/status", headers=ROOT).json()
    assert (status["draining"], status["ready"]) == (True, False)
    assert server.http.delete("/v1/admin/drain", headers=ROOT).json()["draining"] is False
    assert server.http.get("/ready").status_code == 200
    assert server.http.post("/v1/audio/speech", json=speak, headers=USER).status_code == 200


def test_the_drain_of_a_server_that_ends_is_not_taken_back(
    serve: Serve, access: dict[str, Any], front_and_port: tuple[Front, int]
) -> None:
    server = serve(access={**access, "admin": True})
    app = front_and_port[0].app
    admission = app.state.admission  # type: ignore[attr-defined]
    Server(uvicorn_settings(app, 1), admission, ServerConfig(), "").handle_exit(signal.SIGTERM, None)
    refused = server.http.delete("/v1/admin/drain", headers=ROOT)
    assert (refused.status_code, "about to end" in refused.text) == (503, True)
    assert server.http.get("/ready").status_code == 503


def test_the_status_is_the_pipelines(serve: Serve, access: dict[str, Any]) -> None:
    status = serve(access={**access, "admin": True}).http.get("/v1/admin/status", headers=ROOT).json()
    assert status["requests"] == {"open": 0}
    assert {"version", "uptime_s", "log_level", "stages", "links", "workers"} <= set(status)


def test_a_worker_is_restarted_by_name(serve: Serve, access: dict[str, Any]) -> None:
    server = serve(access={**access, "admin": True})
    answer = server.http.post("/v1/admin/workers/main/restart", headers=ROOT)
    assert (answer.status_code, answer.json()) == (202, {"restarting": "main"})
    assert server.pipeline.restarted == ["main"]


def test_the_log_level_changes_while_it_runs(serve: Serve, access: dict[str, Any]) -> None:
    server = serve(access={**access, "admin": True})
    root = logging.getLogger()
    before = root.level
    try:
        answer = server.http.put("/v1/admin/log-level", json={"level": "debug"}, headers=ROOT)
        assert answer.json() == {"log_level": "debug"}
        assert root.level == logging.DEBUG
        assert server.http.get("/v1/admin/status", headers=ROOT).json()["log_level"] == "debug"
        wrong = server.http.put("/v1/admin/log-level", json={"level": "loud"}, headers=ROOT)
        assert wrong.status_code == 400
        assert "level" in wrong.json()["error"]["message"]
    finally:
        root.setLevel(before)

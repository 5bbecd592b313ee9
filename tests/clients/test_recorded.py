"""Programs that cannot run here, by what they send: each recording is answered as its program needs it.

A recording (`recorded/*.toml`) names the program, its version and the source from which it was written down;
its settings are those that the program's page tells its users to enter.
"""

import base64
import json
import tomllib
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from tests.clients.hearing import SENTENCE, assert_says

RECORDED = Path(__file__).parent / "recorded"
DOCS = Path(__file__).parents[2] / "docs" / "clients"
RECORDINGS = {path.stem: tomllib.loads(path.read_text()) for path in sorted(RECORDED.glob("*.toml"))}


def requests() -> list[Any]:
    return [
        pytest.param(request, id=f"{name}-{number}")
        for name, recording in RECORDINGS.items()
        for number, request in enumerate(recording.get("request", ()))
    ]


SOCKETS = {name: recording["websocket"] for name, recording in RECORDINGS.items() if "websocket" in recording}


def with_text(value: Any) -> Any:
    """The recorded value, with the sentence where the user's text was."""
    if isinstance(value, dict):
        return {key: with_text(inner) for key, inner in value.items()}
    return value.replace("{text}", SENTENCE) if isinstance(value, str) else value


@pytest.mark.parametrize("request_", requests())
def test_a_recorded_request_is_answered_as_its_program_needs_it(
    request_: dict[str, Any], server: str
) -> None:
    with httpx2.Client(base_url=server, timeout=60, trust_env=False) as http:
        answer = http.request(
            request_["method"],
            request_["path"],
            headers=request_.get("headers"),
            json=with_text(request_["body"]) if "body" in request_ else None,
        )
    assert answer.status_code in request_["status"], answer.text
    assert answer.headers["Content-Type"].startswith(request_.get("content_type", ""))
    if wanted := request_.get("lists"):
        items = answer.json()[wanted["at"]]
        assert items
        assert all(isinstance(item[name], str) for item in items for name in wanted["with"])
    if request_.get("says"):
        assert_says(answer.content, SENTENCE)


@pytest.mark.parametrize("name", SOCKETS)
def test_a_recorded_conversation_goes_as_its_program_needs_it(name: str, server: str) -> None:
    told = SOCKETS[name]
    url = server.replace("http", "ws", 1) + told["path"]
    turns = {turn["after"]: turn["send"].replace("{text}", SENTENCE) for turn in told["turn"]}
    audio, response_id = b"", None
    with connect(url, additional_headers=told["headers"], open_timeout=15, proxy=None) as socket:
        while (event := json.loads(socket.recv(timeout=60)))["type"] != told["ends"]:
            assert event["type"] != "error", event
            if event["type"] in turns:
                socket.send(turns.pop(event["type"]))
            elif event["type"] == "response.created":
                response_id = event["response"]["id"]
            elif event["type"] == told["audio"]:
                assert event["response_id"] == response_id
                audio += base64.b64decode(event["delta"], validate=True)
    assert (event["response"]["id"], event["response"]["status"]) == (response_id, told["status"])
    assert not turns
    assert_says(audio, SENTENCE, rate_hz=24_000)


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_page_tells_the_settings_that_were_recorded(name: str) -> None:
    recording = RECORDINGS[name]
    page = (DOCS / recording["page"]).read_text()
    for field, value in recording["settings"].items():
        assert f"| {field} | `{value}` |" in page
    assert recording["client"].split()[0] in page
    assert recording["source"]

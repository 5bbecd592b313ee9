"""Programs that cannot run here, by what they send: each recording is answered as its program needs it.

A recording (`recorded/*.toml`) names the program, its version and the source from which it was written down;
its settings are those that the program's page tells its users to enter. Its requests are sent in order, for
one may need what another made; `{text}` stands for a sentence, `{audio}` for a recording of it. `says` is
where the program hears it: in a file that is the `body`, in `pcm`, in `events`, or at a place in JSON.
"""

import base64
import json
import tomllib
import wave
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from tests.clients.hearing import SENTENCE, assert_says

RECORDED = Path(__file__).parent / "recorded"
DOCS = Path(__file__).parents[2] / "docs" / "clients"
RECORDINGS = {path.stem: tomllib.loads(path.read_text()) for path in sorted(RECORDED.glob("*.toml"))}
RATE_HZ = 24_000

REQUESTS = {name: recording["request"] for name, recording in RECORDINGS.items() if "request" in recording}
SOCKETS = {name: recording["websocket"] for name, recording in RECORDINGS.items() if "websocket" in recording}
STREAMS = [
    pytest.param(stream, id=f"{name}-{number}")
    for name, recording in RECORDINGS.items()
    for number, stream in enumerate(recording.get("stream", ()))
]


@pytest.fixture(scope="module")
def audio(server: str) -> bytes:
    """A WAV file that says the sentence."""
    body = {"input": SENTENCE, "response_format": "wav", "seed": 0}
    answer = httpx2.post(f"{server}/v1/audio/speech", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.content


def filled(value: Any, audio: bytes) -> Any:
    """The recorded value, with the sentence where the user's text was, and its sound where his voice was."""
    if isinstance(value, dict):
        return {key: filled(inner, audio) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, audio) for inner in value]
    if not isinstance(value, str):
        return value
    uri = f"data:audio/wav;base64,{base64.b64encode(audio).decode()}"
    return value.replace("{text}", SENTENCE).replace("{audio}", uri)


def at(value: Any, path: str) -> Any:
    """What stands at a place like results.0.status."""
    for step in path.split("."):
        value = value[int(step) if step.isdecimal() else step]
    return value


def joined(events: str) -> bytes:
    """The samples of all WAV files in `audio.speech.chunk` events, which end with a reason and `[DONE]`."""
    *told, end = [line.removeprefix("data: ") for line in events.splitlines() if line]
    chunks = [json.loads(line) for line in told]
    assert (chunks[-1]["finish_reason"], chunks[-1]["audio"], end) == ("stop", None, "[DONE]")
    samples = b""
    for chunk in chunks[:-1]:
        with wave.open(BytesIO(base64.b64decode(chunk["audio"]["data"]))) as file:
            assert file.getparams()[:3] == (1, 2, RATE_HZ)
            samples += file.readframes(file.getnframes())
    return samples


def hear(answer: httpx2.Response, where: str) -> None:
    match where:
        case "body":
            assert_says(answer.content, SENTENCE)
        case "pcm":
            assert_says(answer.content, SENTENCE, rate_hz=RATE_HZ)
        case "events":
            assert_says(joined(answer.text), SENTENCE, rate_hz=RATE_HZ)
        case _:
            assert_says(base64.b64decode(at(answer.json(), where), validate=True), SENTENCE)


@pytest.fixture(scope="module")
def answers(server: str, audio: bytes) -> Iterator[dict[str, Future[list[httpx2.Response]]]]:
    """What came for the requests of each recording; the programs are there at the same time."""
    with httpx2.Client(base_url=server, timeout=60, trust_env=False) as http, ThreadPoolExecutor() as pool:

        def ask(told: dict[str, Any]) -> httpx2.Response:
            body = {"json": filled(told["body"], audio)} if "body" in told else {}
            if "form" in told:
                body = {"data": filled(told["form"], audio), "files": {"audio_sample": ("me.wav", audio)}}
            return http.request(told["method"], told["path"], headers=told.get("headers"), **body)

        yield {name: pool.submit(lambda told: list(map(ask, told)), told) for name, told in REQUESTS.items()}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", REQUESTS)
def test_recorded_requests_are_answered_as_their_program_needs_it(
    name: str, answers: dict[str, Future[list[httpx2.Response]]]
) -> None:
    for told, answer in zip(REQUESTS[name], answers[name].result(), strict=True):
        assert answer.status_code in told["status"], f"{told['what']}: {answer.text}"
        assert answer.headers["Content-Type"].startswith(told.get("content_type", ""))
        for header, value in told.get("headers_read", {}).items():
            assert answer.headers[header] == value or (not value and int(answer.headers[header]) > 0)
        for path, value in told.get("reads", {}).items():
            assert at(answer.json(), path) == value, f"{told['what']}: {path}"
        if wanted := told.get("lists"):
            items = answer.json()[wanted["at"]]
            assert items
            assert all(isinstance(item[field], str) for item in items for field in wanted["with"])
        if "says" in told:
            hear(answer, told["says"])


@pytest.mark.parametrize("told", STREAMS)
def test_a_recorded_stream_of_text_is_spoken_as_its_program_needs_it(
    told: dict[str, Any], server: str
) -> None:
    heard, kinds = b"", set()
    with connect(server.replace("http", "ws", 1) + told["path"], open_timeout=15, proxy=None) as socket:
        for turn in told["turns"]:
            for message in turn["send"]:
                socket.send(message.replace("{text}", SENTENCE))
            event: dict[str, Any] = {"type": ""}
            while event["type"] != turn["until"]:
                answer = socket.recv(timeout=60)
                if isinstance(answer, bytes):
                    heard += answer
                    continue
                event = json.loads(answer)
                kinds.add(event["type"])
                assert event["type"] != "error", event
                assert set(told["reads"].get(event["type"], ())) <= event.keys()
                assert event.get("sample_rate", RATE_HZ) == RATE_HZ
    assert set(told["reads"]) <= kinds
    assert_says(heard, SENTENCE, rate_hz=RATE_HZ if told["says"] == "pcm" else None)


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

"""The libraries that people build voice programs with, called as their users do, and the built-in voice."""

import json
import socket
from pathlib import Path

import pytest

from stentor.bench.local_server import LocalServer
from tests.clients.conftest import Run
from tests.clients.hearing import SENTENCE, assert_says

pytestmark = pytest.mark.clients

CALL = ("stentor-tiny", SENTENCE)


def facts(folder: Path) -> dict:
    return json.loads((folder / "facts.json").read_text())


def test_livekit_plays_mp3_out_of_events_and_counts_tokens(run: Run, server: str) -> None:
    folder = run("livekit", "livekit_speech.py", server, *CALL)
    assert_says(folder / "speech.wav", SENTENCE)
    assert facts(folder)["frames"] > 1
    [usage] = facts(folder)["usage"]
    assert min(usage.values()) > 0


def test_pipecat_gets_whole_samples_of_pcm(run: Run, server: str) -> None:
    folder = run("pipecat", "pipecat_speech.py", server, *CALL)
    assert facts(folder)["errors"] == []
    assert [size for size in facts(folder)["sizes"] if size % 2] == []
    assert_says((folder / "speech.pcm").read_bytes(), SENTENCE, rate_hz=24_000)


def test_the_realtime_client_gets_every_event_in_order_and_can_cancel(run: Run, server: str) -> None:
    folder = run("realtime", "realtime_conversation.py", server, *CALL)
    assert_says((folder / "speech.pcm").read_bytes(), SENTENCE, rate_hz=24_000)
    whole = list(dict.fromkeys(facts(folder)["whole"]))
    expected = ["response.created", "response.output_item.added", "response.output_audio.delta"]
    expected += ["response.output_audio.done", "response.output_item.done", "response.done", "completed"]
    assert [event for event in whole if event in expected] == expected
    assert facts(folder)["cancelled"][-2:] == ["response.done", "cancelled"]


def test_litellm_speaks_plain_and_asynchronously(run: Run, server: str) -> None:
    folder = run("litellm", "litellm_speech.py", server, *CALL)
    assert_says(folder / "speech.mp3", SENTENCE)
    assert_says(folder / "again.mp3", SENTENCE)


def test_the_ai_sdk_of_vercel_generates_speech(run: Run, server: str) -> None:
    folder = run("node", "vercel_speech.mjs", server, *CALL)
    assert facts(folder) == {"mediaType": "audio/mpeg", "warnings": []}
    assert_says(folder / "speech.mp3", SENTENCE)


def test_openai_for_node_takes_a_file_and_a_stream(run: Run, server: str) -> None:
    folder = run("node", "node_speech.mjs", server, *CALL)
    assert_says(folder / "speech.mp3", SENTENCE)
    folder = run("node", "node_stream.mjs", server, *CALL)
    assert_says((folder / "speech.pcm").read_bytes(), SENTENCE, rate_hz=24_000)
    assert facts(folder)["chunks"] > 1


def test_elevenlabs_library_takes_a_file_a_stream_and_speaks_text_in_pieces(run: Run, server: str) -> None:
    folder = run("elevenlabs", "elevenlabs_speech.py", server, SENTENCE)
    assert "default" in facts(folder)["voices"]
    assert facts(folder)["bytes"] % 2 == 0
    assert_says(folder / "speech.mp3", SENTENCE)
    for name in ("stream.pcm", "pieces.pcm"):
        assert_says((folder / name).read_bytes(), SENTENCE, rate_hz=24_000)


def test_home_assistant_hears_a_text_and_one_in_pieces_over_wyoming(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with LocalServer(["--wyoming", port]):
        folder = run("wyoming", "wyoming_speech.py", "127.0.0.1", port, SENTENCE)
    assert "default" in facts(folder)["voices"]
    assert facts(folder)["streams"]
    for name in ("speech.wav", "pieces.wav"):
        assert_says(folder / name, SENTENCE)

"""The built-in voice as HTTP shapes it, checked for its words; each format in each form: `test_forms`."""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
import pytest

from stentor.bench.local_server import LocalServer
from tests.clients.hearing import LONG_TEXT, OTHER_SENTENCE, SENTENCE, assert_says, waveform_of

RATE = 24_000

# The voice speaks for all of them in one fixture, on however busy a machine.
pytestmark = pytest.mark.timeout(900)

# What is asked for beside the text, by a name.
ASKED: dict[str, dict[str, Any]] = {
    **{f"file-{format}": {"response_format": format} for format in ("pcm", "wav")},
    **{
        f"raw-{format}": {"response_format": format, "stream": True, "stream_format": "audio"}
        for format in ("pcm", "wav")
    },
    "deltas-pcm": {"response_format": "pcm", "stream_format": "sse"},
    "chunks-wav": {"stream": True},
    "slower": {"speed": 0.8},
    "faster-streamed": {"speed": 1.25, "stream": True, "stream_format": "audio", "response_format": "mp3"},
    "studio-streamed": {"sample_rate": 48_000, "stream_format": "audio", "response_format": "flac"},
    "loud": {"loudness_lufs": -14},
    "quiet-streamed": {"loudness_lufs": -30, "stream_format": "sse", "response_format": "aac"},
    "paragraph": {"input": LONG_TEXT},
    "paragraph-streamed": {"input": LONG_TEXT, "stream": True, "response_format": "pcm"},
}


@pytest.fixture(scope="module")
def answers() -> Iterator[dict[str, httpx2.Response]]:
    """What came for each, all asked for at once; under "batch" a batch of two sentences."""
    with (
        LocalServer(["--workers", "thread"]) as server,
        httpx2.Client(base_url=server.url, timeout=800, trust_env=False) as http,
    ):

        def ask(body: dict[str, Any]) -> httpx2.Response:
            return http.post("/v1/audio/speech", json={"input": SENTENCE, "seed": 1, **body})

        def ask_for_both() -> httpx2.Response:
            items = [{"input": SENTENCE}, {"input": OTHER_SENTENCE, "response_format": "mp3"}]
            return http.post("/v1/audio/speech/batch", json={"items": items, "seed": 1})

        with ThreadPoolExecutor(8) as pool:
            asked = {name: pool.submit(ask, body) for name, body in ASKED.items()}
            batch = pool.submit(ask_for_both)
            yield {**{name: answer.result() for name, answer in asked.items()}, "batch": batch.result()}


def received(response: httpx2.Response) -> bytes:
    """The file that a client puts together."""
    assert response.status_code == 200, response.text
    if not response.headers["Content-Type"].startswith("text/event-stream"):
        return response.content
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert not any("error" in event for event in events)
    if events[0].get("object") != "audio.speech.chunk":
        return b"".join(base64.b64decode(event.get("audio", "")) for event in events)
    pieces = [base64.b64decode(event["audio"]["data"]) for event in events if event["audio"]]
    wav = events[0]["audio"]["format"] == "wav"
    # Small files, of which the first one's header does for all.
    return pieces[0][:44] + b"".join(piece[44:] for piece in pieces) if wav else b"".join(pieces)


def rate_of(name: str) -> int | None:
    return RATE if ASKED[name].get("response_format") == "pcm" else None


@pytest.mark.parametrize("name", ASKED)
def test_the_words_arrive(answers: dict[str, httpx2.Response], name: str) -> None:
    data = received(answers[name])
    if name == "chunks-wav":
        data = data[:44].replace(data[4:8], b"\xff" * 4).replace(data[40:44], b"\xff" * 4) + data[44:]
    assert_says(data, ASKED[name].get("input", SENTENCE), rate_hz=rate_of(name))


@pytest.mark.parametrize("name", [name for name in ASKED if "input" not in ASKED[name]])
def test_all_of_the_sound_arrives(answers: dict[str, httpx2.Response], name: str) -> None:
    whole = len(answers["file-pcm"].content) / 2 / RATE
    expected = whole / ASKED[name].get("speed", 1.0)
    data = received(answers[name])
    heard = len(waveform_of(data, rate_hz=rate_of(name)))
    if name == "chunks-wav":
        heard = (len(data) - 44) // 2
    # What a codec puts before and behind its sound.
    assert -0.001 <= heard / RATE - expected < 0.13


def test_lossless_streams_are_the_file(answers: dict[str, httpx2.Response]) -> None:
    whole = np.frombuffer(answers["file-pcm"].content, "<i2").astype(int)
    headers = {"raw-pcm": 0, "deltas-pcm": 0, "file-wav": 44, "raw-wav": 44, "chunks-wav": 44}
    for name, header in headers.items():
        samples = np.frombuffer(received(answers[name])[header:], "<i2")
        # Other batches in the vocoder round the last bit of a float another way.
        np.testing.assert_allclose(samples, whole, atol=1, err_msg=name)


def test_a_paragraph_is_streamed_as_it_is_said_whole(answers: dict[str, httpx2.Response]) -> None:
    streamed = np.frombuffer(answers["paragraph-streamed"].content, "<i2")
    whole = np.frombuffer(answers["paragraph"].content[44:], "<i2").astype(int)
    np.testing.assert_allclose(streamed, whole, atol=1)
    assert int(answers["paragraph"].headers["X-Completion-Tokens"]) > len(whole) / 960


def test_each_item_of_a_batch_says_its_own_words(answers: dict[str, httpx2.Response]) -> None:
    first, second = answers["batch"].json()["results"]
    assert_says(base64.b64decode(first["audio_data"]), SENTENCE)
    assert_says(base64.b64decode(second["audio_data"]), OTHER_SENTENCE)

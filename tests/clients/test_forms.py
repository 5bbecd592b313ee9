"""Every format by every way that it goes out, judged by its words and by how long they take."""

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import httpx2
import numpy as np
import pytest
from websockets.sync.client import connect

from stentor.audio.formats import FORMATS
from tests.clients.hearing import RATE_HZ, SENTENCE, assert_says, waveform_of

WAIT_S = 100.0
BODY = {"input": SENTENCE, "seed": 1}
# What a codec puts before and behind its sound.
MOST_PADDING_S = 0.13

# In every run of the tests each format is heard once, and each delivery at least once.
ALWAYS = {
    *(("whole", "mp3"), ("raw", "opus"), ("deltas", "aac")),
    *(("chunks", "wav"), ("socket", "flac"), ("socket whole", "pcm")),
}


def whole(http: httpx2.Client, format: str) -> bytes:
    """One file in one answer."""
    return post(http, response_format=format).content


def raw(http: httpx2.Client, format: str) -> bytes:
    """The bytes of the file as they are made, by HTTP's chunks."""
    body = {**BODY, "response_format": format, "stream": True, "stream_format": "audio"}
    with http.stream("POST", "/v1/audio/speech", json=body) as response:
        assert response.status_code == 200
        assert "Content-Length" not in response.headers
        return b"".join(response.iter_raw())


def deltas(http: httpx2.Client, format: str) -> bytes:
    """OpenAI's events, whose slices are one file."""
    told = events(post(http, response_format=format, stream_format="sse"))
    assert told[-1]["type"] == "speech.audio.done"
    return b"".join(base64.b64decode(event["audio"]) for event in told[:-1])


def chunks(http: httpx2.Client, format: str) -> bytes:
    """The peers' events: slices of one file, or small WAV files, of which the first header does for all."""
    told = events(post(http, response_format=format, stream=True))
    pieces = [base64.b64decode(event["audio"]["data"]) for event in told if event["audio"]]
    if format != "wav":
        return b"".join(pieces)
    sizeless = pieces[0][:44].replace(pieces[0][4:8], b"\xff" * 4).replace(pieces[0][40:44], b"\xff" * 4)
    return sizeless + b"".join(piece[44:] for piece in pieces)


def socket(http: httpx2.Client, format: str, stream_audio: bool = True) -> bytes:
    """What the WebSocket sends between `audio.start` and `audio.done`."""
    address = f"ws://{http.base_url.host}:{http.base_url.port}/v1/audio/speech/stream"
    settings = {"response_format": format, "seed": BODY["seed"], "stream_audio": stream_audio}
    heard: list[bytes] = []
    with connect(address, proxy=None, max_size=None) as opened:
        for event in (
            {"type": "session.config", **settings},
            {"type": "input.text", "text": SENTENCE},
            {"type": "input.done"},
        ):
            opened.send(json.dumps(event))
        while True:
            message = opened.recv(timeout=WAIT_S)
            if isinstance(message, bytes):
                heard.append(message)
            elif json.loads(message)["type"] == "session.done":
                assert stream_audio or len(heard) == 1
                return b"".join(heard)
            else:
                assert json.loads(message)["type"] != "error", message


def socket_whole(http: httpx2.Client, format: str) -> bytes:
    """The same, as one message."""
    return socket(http, format, stream_audio=False)


DELIVERIES: dict[str, Callable[[httpx2.Client, str], bytes]] = {
    "whole": whole,
    "raw": raw,
    "deltas": deltas,
    "chunks": chunks,
    "socket": socket,
    "socket whole": socket_whole,
}
# PCM in `chunks` is `raw`: the samples need no events.
FORMS = [form for form in product(DELIVERIES, FORMATS) if form != ("chunks", "pcm")]


def post(http: httpx2.Client, **wish: Any) -> httpx2.Response:
    response = http.post("/v1/audio/speech", json={**BODY, **wish})
    assert response.status_code == 200, response.text
    return response


def events(response: httpx2.Response) -> list[dict[str, Any]]:
    assert response.headers["Content-Type"].startswith("text/event-stream")
    told = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert not any("error" in event for event in told)
    return told


@pytest.fixture(scope="module")
def http(server: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server, timeout=WAIT_S, trust_env=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def samples(http: httpx2.Client) -> np.ndarray:
    """What the model said, 16-bit."""
    return np.frombuffer(whole(http, "pcm"), "<i2")


@pytest.fixture(scope="module")
def always(http: httpx2.Client) -> dict[tuple[str, str], bytes]:
    """What came in the forms of every run, all asked for at once: a batch costs less."""
    forms = sorted(ALWAYS)
    with ThreadPoolExecutor(len(forms)) as pool:
        return dict(zip(forms, pool.map(lambda form: DELIVERIES[form[0]](http, form[1]), forms), strict=True))


@pytest.mark.parametrize(
    ("delivery", "format"),
    [
        pytest.param(*form, id="-".join(form), marks=[] if form in ALWAYS else [pytest.mark.clients])
        for form in FORMS
    ],
)
def test_words_and_length_are_those_that_were_said(
    delivery: str, format: str, http: httpx2.Client, always: dict[tuple[str, str], bytes], samples: np.ndarray
) -> None:
    data = always.get((delivery, format)) or DELIVERIES[delivery](http, format)
    rate_hz = RATE_HZ if format == "pcm" else None
    assert_says(data, SENTENCE, rate_hz=rate_hz)
    waveform = waveform_of(data, rate_hz=rate_hz)
    assert -0.001 <= (len(waveform) - len(samples)) / RATE_HZ < MOST_PADDING_S
    if format in ("pcm", "wav", "flac"):
        assert len(waveform) == len(samples)
        # Windows of other lengths are summed in another order, which can move a rounding.
        assert np.abs(np.rint(waveform * 32_768) - samples).max() <= 1


def test_what_always_runs_has_each_format_and_each_delivery() -> None:
    assert set(FORMS) > ALWAYS
    assert {delivery for delivery, _ in ALWAYS} == set(DELIVERIES)
    assert {format for _, format in ALWAYS} == set(FORMATS)

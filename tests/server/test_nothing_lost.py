"""Hypothesis over texts with tags, and over waveforms, chunks and formats: nothing lost, nothing invented."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stentor.audio.formats import FORMATS
from stentor.audio.load import decode
from stentor.request import Audio, FinishReason, SpeechRequest
from tests.server.conftest import Running
from tests.server.fakes import INFO, RATE, USAGE, Act

Serve = Callable[..., Running]

several = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# Tags that exist, tags that do not, pieces of tags, and whatever people write.
texts = (
    st.lists(
        st.sampled_from(
            [*INFO.control_tags, "<|emotion:none|>", "<|", "|>", " ", "Dr. Who?", "\n", "é", "你好"]
        )
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        min_size=1,
        max_size=12,
    )
    .map("".join)
    .filter(str.strip)
)

# Loud to its end, so that a lost end is seen, and of no regular length.
lengths = st.integers(1, 30_000)
cuts = st.lists(st.integers(0, 30_000), max_size=8)
deliveries = st.sampled_from(
    [
        {},
        {"stream": True},
        {"stream_format": "sse"},
        {"stream_format": "audio", "stream": True},
    ]
)


@several
@given(text=texts)
def test_a_text_with_tags_reaches_the_model_as_it_was_written(serve: Serve, text: str) -> None:
    server = serve()
    assert server.speech(input=text).status_code == 200
    answer = server.http.post("/v1/audio/speech/batch", json={"items": [{"input": text}]})
    assert answer.json()["succeeded"] == 1
    assert [request.text for request in server.pipeline.requests] == [text, text]


def rising(num_samples: int) -> np.ndarray:
    time_s = np.arange(num_samples) / RATE
    return (0.2 + 0.5 * np.arange(num_samples) / num_samples) * np.sin(2 * np.pi * 440 * time_s + 1)


def saying(waveform: np.ndarray, cuts: list[int]) -> Callable[[SpeechRequest], Iterator[Act]]:
    def script(_: SpeechRequest) -> Iterator[Act]:
        pieces = np.split(waveform.astype(np.float32), sorted(cuts))
        for piece in pieces[:-1]:
            yield Audio(piece, RATE)
        yield Audio(pieces[-1], RATE, FinishReason.STOP, USAGE)

    return script


def received(response: httpx2.Response) -> list[bytes]:
    """The files that came: one, or many small ones."""
    if not response.headers["Content-Type"].startswith("text/event-stream"):
        return [response.content]
    events: list[dict[str, Any]] = [
        json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")
    ]
    if "type" in events[0]:
        return [b"".join(base64.b64decode(event.get("audio", "")) for event in events)]
    pieces = [base64.b64decode(event["audio"]["data"]) for event in events if event["audio"]]
    return pieces if events[0]["audio"]["format"] == "wav" else [b"".join(pieces)]


@several
@given(num_samples=lengths, cuts=cuts, delivery=deliveries, format=st.sampled_from(list(FORMATS)))
def test_a_sound_arrives_whole_and_alone(
    serve: Serve, num_samples: int, cuts: list[int], delivery: dict[str, Any], format: str
) -> None:
    waveform = rising(num_samples)
    response = serve(saying(waveform, cuts)).speech(response_format=format, **delivery)
    assert response.status_code == 200
    files = received(response)
    if format == "pcm":
        heard = np.frombuffer(b"".join(files), "<i2") / np.float32(32_767)
    else:
        heard = np.concatenate([decode(file, sample_rate_hz=RATE, max_seconds=60) for file in files])
    if format in ("pcm", "wav", "flac"):
        assert len(heard) == num_samples
        np.testing.assert_allclose(heard, waveform, atol=2 / 32_767)
        return
    # A lossy codec may put silence before and behind, and blur the first and last milliseconds.
    assert 0 <= len(heard) - num_samples < 3_000
    sound = np.flatnonzero(np.abs(heard) > 0.1)
    assert abs((sound[-1] - sound[0] + 1) - num_samples) < 400 if num_samples > 2_000 else True
    energy = float(np.sum(np.square(heard, dtype=np.float64)) / np.sum(np.square(waveform)))
    assert 0.5 < energy < 2 if num_samples > 2_000 else True

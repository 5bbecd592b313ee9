"""OpenAI's own library against the built-in voice: every form of an answer, heard and not only counted."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from stentor.audio.load import decode
from tests.clients.hearing import LONG_TEXT, SENTENCE, assert_says

FRAME_S = 0.04
# Encoders of these formats put silence before and after; the sound itself is whole.
PRIMING_S = {"mp3": 0.1, "aac": 0.1, "opus": 0.1}

CALL = {"model": "stentor-tiny", "voice": "alloy", "input": SENTENCE, "extra_body": {"seed": 1}}


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server}/v1", api_key="unused") as opened:
        yield opened


FORMATS = ["pcm", "wav", "flac", "mp3", "opus", "aac"]


@pytest.fixture(scope="module")
def answers(client: OpenAI) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What came whole in each format, and what was streamed, all asked for at once: a batch costs less."""

    def streamed(format: str) -> bytes:
        told = client.audio.speech.with_streaming_response.create(
            **CALL, response_format=format, stream_format="audio"
        )
        with told as response:
            return b"".join(response.iter_bytes(1024))

    with ThreadPoolExecutor(2 * len(FORMATS)) as pool:
        whole = pool.map(lambda format: client.audio.speech.create(**CALL, response_format=format), FORMATS)
        pieces = pool.map(streamed, FORMATS)
        return dict(zip(FORMATS, whole, strict=True)), dict(zip(FORMATS, pieces, strict=True))


@pytest.fixture(scope="module")
def whole(answers) -> dict[str, Any]:
    return answers[0]


@pytest.fixture(scope="module")
def pieces(answers) -> dict[str, bytes]:
    return answers[1]


def seconds(audio: bytes) -> float:
    return len(decode(audio, sample_rate_hz=24_000, max_seconds=60)) / 24_000


def test_pcm_says_the_words(whole: dict[str, Any]) -> None:
    assert_says(whole["pcm"].content, SENTENCE, rate_hz=24_000)


@pytest.mark.parametrize("format", FORMATS[1:])
def test_every_format_is_a_file_that_says_the_words(
    format: str, whole: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / f"speech.{format}"
    whole[format].write_to_file(path)
    assert_says(path, SENTENCE)
    length_s = len(whole["pcm"].content) / 48_000
    assert abs(seconds(path.read_bytes()) - length_s) <= FRAME_S + PRIMING_S.get(format, 0)
    assert whole[format].response.headers["Content-Type"].startswith("audio/")


@pytest.mark.parametrize("format", FORMATS)
def test_the_pieces_of_a_stream_are_one_file(format: str, pieces: dict[str, bytes]) -> None:
    assert_says(pieces[format], SENTENCE, rate_hz=24_000 if format == "pcm" else None)


def test_a_stream_is_the_same_audio_as_the_file_to_the_last_bit_but_one(
    whole: dict[str, Any], pieces: dict[str, bytes]
) -> None:
    """Windows of other lengths are summed in another order, which can move a rounding."""
    difference = np.frombuffer(pieces["pcm"], "<i2").astype(int) - np.frombuffer(whole["pcm"].content, "<i2")
    assert np.abs(difference).max() <= 1


def test_events_hold_slices_of_one_mp3_and_then_the_usage(client: OpenAI) -> None:
    streamed = client.audio.speech.with_streaming_response.create(
        **CALL, response_format="mp3", stream_format="sse"
    )
    with streamed as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    events = [json.loads(line) for line in lines]
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    assert_says(b"".join(base64.b64decode(event["audio"]) for event in events[:-1]), SENTENCE)
    assert events[-1]["type"] == "speech.audio.done"
    usage = events[-1]["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0


def test_many_asynchronous_calls_do_not_mix(server: str) -> None:
    texts = [part.strip() + "." for part in LONG_TEXT.split(".") if part]

    async def speak_all() -> list[bytes]:
        async with AsyncOpenAI(base_url=f"{server}/v1", api_key="unused") as client:
            return await asyncio.gather(*(collect(client, text) for text in texts * 2))

    async def collect(client: AsyncOpenAI, text: str) -> bytes:
        call = CALL | {"input": text}
        streamed = client.audio.speech.with_streaming_response.create(
            **call, response_format="pcm", stream_format="audio"
        )
        async with streamed as response:
            chunks: AsyncIterator[bytes] = response.iter_bytes()
            return b"".join([chunk async for chunk in chunks])

    for text, audio in zip(texts * 2, asyncio.run(speak_all()), strict=True):
        assert_says(audio, text, rate_hz=24_000)


def test_models_are_listed_and_the_served_one_is_there(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["stentor-tiny"]
    assert client.models.retrieve("stentor-tiny").id == "stentor-tiny"


@pytest.mark.parametrize(
    ("wrong", "kind", "param"),
    [
        ({"input": ""}, openai.BadRequestError, "input"),
        ({"voice": "nobody"}, openai.BadRequestError, "voice"),
        ({"model": "nothing-such"}, openai.NotFoundError, "model"),
        ({"input": "word " * 100_000}, openai.APIStatusError, "input"),
    ],
)
def test_errors_arrive_as_the_librarys_own(
    wrong: dict[str, str], kind: type[openai.APIStatusError], param: str, client: OpenAI
) -> None:
    with pytest.raises(kind) as caught:
        client.audio.speech.create(**(CALL | wrong))
    assert caught.value.param == param
    assert caught.value.request_id

"""Laws of transcribing: each recording once, in batches, and a failure is told to those it concerns."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from stentor.errors import InternalError, OverloadedError
from stentor.request import Array, Reference, SpeechRequest
from stentor.stages import transcribe
from stentor.stages.transcribe import Transcriber

RATE_HZ = 24_000


class Counter:
    """Hears the first sample of a recording as a number, and nothing in 0; -1 is a fault of its own, -2 of
    memory. It waits for `gate`, and records what it was given.
    """

    max_seconds, max_batch = 30.0, 3

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def transcribe(self, waveforms: Sequence[Array], sample_rate_hz: int) -> list[str]:
        assert sample_rate_hz == RATE_HZ
        numbers = [int(waveform[0]) for waveform in waveforms]
        self.batches.append(numbers)
        assert self.gate.wait(60)
        if -1 in numbers:
            raise ZeroDivisionError("oops")
        if -2 in numbers:
            raise OverloadedError("no memory")
        return [f"words {number}" if number else "" for number in numbers]


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def transcriber(counter: Counter) -> Iterator[Transcriber]:
    made = Transcriber(counter, RATE_HZ)
    yield made
    counter.gate.set()
    made.close()


def add(transcriber: Transcriber, name: str, number: int) -> None:
    loaded: Future[Array] = Future()
    loaded.set_result(np.full(10, number, np.float32))
    transcriber.add(SpeechRequest(name, "hello", Reference(audio=b"recording")), loaded)


def step(transcriber: Transcriber) -> dict[str, str | None]:
    """What the requests that are done were given, or the kinds of what they raise."""
    told: dict[str, str | None] = {}
    for request, loaded in transcriber.step():
        assert request.reference is not None
        assert request.reference.audio == b"recording"
        error = loaded.exception()
        assert error is not None or len(loaded.result()) == 10
        told[request.request_id] = type(error).__name__ if error else request.reference.text
    return told


def drain(transcriber: Transcriber) -> dict[str, str | None]:
    told: dict[str, str | None] = {}
    deadline = time.monotonic() + 60
    while transcriber.has_work() and time.monotonic() < deadline:
        told |= step(transcriber)
    assert not transcriber.has_work()
    return told


def test_a_request_gets_the_words_of_its_recording(transcriber: Transcriber) -> None:
    add(transcriber, "a", 1)
    add(transcriber, "b", 2)
    assert drain(transcriber) == {"a": "words 1", "b": "words 2"}


def test_a_recording_in_which_nothing_is_heard_stays_without_words(transcriber: Transcriber) -> None:
    add(transcriber, "a", 0)
    assert drain(transcriber) == {"a": None}


def test_what_waits_together_is_heard_together_and_each_recording_once(
    transcriber: Transcriber, counter: Counter
) -> None:
    for name, number in (("a", 1), ("b", 2), ("c", 1), ("d", 3), ("e", 4)):
        add(transcriber, name, number)
    told = drain(transcriber)
    assert counter.batches == [[1, 2, 3], [4]]
    assert told == {"a": "words 1", "b": "words 2", "c": "words 1", "d": "words 3", "e": "words 4"}


def test_who_comes_while_his_recording_is_heard_does_not_have_it_heard_again(
    transcriber: Transcriber, counter: Counter
) -> None:
    counter.gate.clear()
    add(transcriber, "a", 1)
    assert step(transcriber) == {}
    add(transcriber, "b", 1)
    assert step(transcriber) == {}
    assert len(transcriber.under_way) == 1
    counter.gate.set()
    assert drain(transcriber) == {"a": "words 1", "b": "words 1"}
    assert counter.batches == [[1]]
    assert transcriber.under_way == []


def test_known_recordings_are_told_at_once_and_the_least_used_forgotten(
    transcriber: Transcriber, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcribe, "_MOST_KEPT", 2)
    for number in (1, 2):
        add(transcriber, "first", number)
        drain(transcriber)
    add(transcriber, "known", 1)
    assert step(transcriber) == {"known": "words 1"}
    assert transcriber.stats() == {"transcripts_waiting": 0, "recordings_heard": 2}
    for number in (3, 1, 2):
        add(transcriber, "again", number)
        drain(transcriber)
    assert counter.batches == [[1], [2], [3], [2]]


def test_an_aborted_request_gets_nothing_and_its_recording_stays_known(
    transcriber: Transcriber, counter: Counter
) -> None:
    counter.gate.clear()
    add(transcriber, "a", 1)
    step(transcriber)
    add(transcriber, "b", 2)
    for name in ("a", "b", "never heard of"):
        transcriber.abort(name)
    assert not transcriber.has_work()
    counter.gate.set()
    add(transcriber, "c", 1)
    assert drain(transcriber) == {"c": "words 1"}
    assert counter.batches == [[1]]


@pytest.mark.parametrize(("number", "kind"), [(-1, "InternalError"), (-2, "OverloadedError")])
def test_a_failure_is_that_of_the_batch_and_the_next_is_heard(
    transcriber: Transcriber, counter: Counter, number: int, kind: str
) -> None:
    for name, what in (("a", 1), ("b", number), ("c", 2), ("d", 3)):
        add(transcriber, name, what)
    assert drain(transcriber) == {"a": kind, "b": kind, "c": kind, "d": "words 3"}
    # What failed is not kept: it is tried again.
    add(transcriber, "e", 1)
    assert drain(transcriber) == {"e": "words 1"}
    assert counter.batches == [[1, number, 2], [3], [1]]


def test_a_failure_that_is_ours_says_how_to_do_without(transcriber: Transcriber) -> None:
    add(transcriber, "a", -1)
    done: list[tuple[SpeechRequest, Future[Any]]] = []
    while transcriber.has_work():
        done += transcriber.step()
    with pytest.raises(InternalError, match="send its words with it"):
        done[0][1].result()

"""Laws of the one door to the pipeline: shares are per key, and a draining server takes nothing new."""

import asyncio

import pytest

from stentor.errors import OverloadedError, RateLimitedError
from stentor.request import SpeechRequest
from stentor.server.admission import Admission
from stentor.server.caller import Caller, enter
from stentor.server.keys import Key
from tests.server.fakes import FakePipeline, say


def request(number: int, text: str = "Hello.") -> SpeechRequest:
    return SpeechRequest(str(number), text)


def door(max_requests: int = 8) -> tuple[Admission, FakePipeline]:
    pipeline = FakePipeline(say(0.01), max_requests)
    return Admission(pipeline), pipeline  # type: ignore[arg-type]


def test_each_key_has_a_share_of_its_own() -> None:
    async def run() -> None:
        admission, pipeline = door()
        streams = []
        for name in ("alice", "bob"):
            enter(Caller(key=Key(name, b"", concurrent_requests=1)))
            streams.append(admission.submit(request(len(streams))))
            with pytest.raises(RateLimitedError):
                admission.submit(request(9))
        assert admission.num_open() == len(pipeline.open) == 2
        for stream in streams:
            stream.abort()
        admission.submit(request(5)).abort()

    asyncio.run(run())


def test_a_key_whose_limits_were_changed_begins_anew() -> None:
    async def run() -> None:
        admission, _ = door()
        enter(Caller(key=Key("alice", b"", requests_per_minute=1)))
        admission.submit(request(1)).abort()
        with pytest.raises(RateLimitedError):
            admission.submit(request(2))
        enter(Caller(key=Key("alice", b"", requests_per_minute=2)))
        admission.submit(request(3)).abort()

    asyncio.run(run())


def test_what_the_pipeline_refuses_does_not_count() -> None:
    async def run() -> None:
        admission, _ = door(max_requests=1)
        enter(Caller(key=Key("alice", b"", requests_per_minute=2)))
        first = admission.submit(request(1))
        for number in range(5):
            with pytest.raises(OverloadedError) as caught:
                admission.submit(request(number + 2))
            assert not isinstance(caught.value, RateLimitedError)
        first.abort()
        admission.submit(request(9)).abort()

    asyncio.run(run())


def test_a_draining_server_is_not_ready_and_takes_nothing_new() -> None:
    async def run() -> None:
        admission, pipeline = door()
        running = admission.submit(request(1))
        assert admission.ready()
        admission.draining = True
        assert not admission.ready()
        assert admission.alive()
        with pytest.raises(OverloadedError, match="about to stop"):
            admission.submit(request(2))
        # The next part of an accepted request is none that is new.
        admission.submit(request(3), continues=True).abort()
        assert admission.num_open() == 1
        assert [audio async for audio in running]
        assert admission.num_open() == 0
        assert len(pipeline.requests) == 2

    asyncio.run(run())

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from stentor.audio.formats import to_pcm16
from stentor.audio.shape import Shape
from stentor.errors import InternalError, OverloadedError, RequestError
from stentor.request import SpeechRequest
from stentor.server.admission import Admission
from stentor.server.delivery import RawBytes
from stentor.server.metrics import Metrics
from stentor.server.outcomes import Outcomes
from stentor.server.protocol import Order, Reader
from stentor.server.utterance import ReaderGoneError, Service, Utterance
from tests.server.fakes import INFO, RATE, Act, FakePipeline, config, order, say, sound, tone, voices
from tests.sound import shape_whole


@pytest.fixture
def service() -> Iterator[Service]:
    pipeline = FakePipeline(say(0.5))
    reader = Reader(INFO, voices(), config())
    with ThreadPoolExecutor(2) as encoders:
        yield Service(
            Admission(pipeline),  # type: ignore[arg-type]
            reader,
            Metrics(pipeline.stats),
            Outcomes(60),
            encoders,
            INFO,
            write_timeout_s=1,
        )


def fake(service: Service) -> FakePipeline:
    pipeline: Any = service.pipeline._pipeline
    assert isinstance(pipeline, FakePipeline)
    return pipeline


def opened(service: Service, what: Order) -> Utterance:
    return Utterance(service, what, lambda rate_hz: RawBytes(what.format, rate_hz))


async def said(service: Service, what: Order) -> list[bytes]:
    async with opened(service, what) as utterance:
        return [data async for data in utterance]


def status(service: Service) -> dict[str, Any]:
    known = service.outcomes.get("", "id-1")
    assert known is not None
    return known


def test_what_comes_out_is_the_audio_and_never_nothing(service: Service) -> None:
    pieces = asyncio.run(said(service, order()))
    assert all(pieces)
    assert b"".join(pieces) == to_pcm16(tone(0.5))
    assert (status(service)["status"], status(service)["finish_reason"]) == ("done", "stop")
    assert (status(service)["prompt_tokens"], status(service)["seed"]) == (12, 7)
    assert status(service)["audio_seconds"] == pytest.approx(0.5)


def test_it_is_shaped_as_the_order_says(service: Service) -> None:
    pieces = asyncio.run(said(service, order(speed=2.0, sample_rate_hz=48_000)))
    expected = shape_whole(tone(0.5), Shape(speed=2.0, sample_rate_hz=48_000), RATE)
    np.testing.assert_allclose(
        np.frombuffer(b"".join(pieces), "<i2"), np.frombuffer(to_pcm16(expected), "<i2"), atol=1
    )
    # The listener's clock runs on what is heard.
    assert status(service)["audio_seconds"] == pytest.approx(0.25)


def test_it_is_in_progress_until_it_ends(service: Service) -> None:
    async def run() -> None:
        async with opened(service, order()) as utterance:
            await anext(utterance)
            assert status(service)["status"] == "in_progress"
            assert utterance.audio_s > 0
            async for _ in utterance:
                pass
            utterance.delivered()
            assert status(service)["status"] == "done"

    asyncio.run(run())


def leaves(error: BaseException | None) -> Callable[[Service], Coroutine[Any, Any, None]]:
    async def run(service: Service) -> None:
        async with opened(service, order()) as utterance:
            await anext(utterance)
            if error is not None:
                raise error

    return run


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "aborted"),
        (ReaderGoneError(), "aborted"),
        (asyncio.CancelledError(), "aborted"),
        (RequestError("no"), "refused"),
        (InternalError("a worker died"), "error"),
        (KeyError("secret"), "error"),
    ],
    ids=str,
)
def test_leaving_it_in_any_way_frees_the_place_and_is_recorded(
    service: Service, error: BaseException | None, outcome: str
) -> None:
    raised = nullcontext() if error is None else pytest.raises(type(error))
    with raised:
        asyncio.run(leaves(error)(service))
    assert not fake(service).open
    assert status(service)["status"] == outcome
    assert "secret" not in str(status(service))


def test_a_failure_is_raised_and_remembered(service: Service) -> None:
    fake(service).script = lambda _: [sound(0.1), InternalError("a worker died")]
    with pytest.raises(InternalError, match="a worker died"):
        asyncio.run(said(service, order()))
    assert status(service)["status"] == "error"
    assert status(service)["error"]["message"] == "a worker died"


def test_no_sound_is_a_failure(service: Service) -> None:
    acts: list[Act] = [sound(0.0)]
    fake(service).script = lambda _: acts
    with pytest.raises(InternalError, match="no sound"):
        asyncio.run(said(service, order()))


def test_a_full_house_is_told_at_once_and_leaves_no_outcome(service: Service) -> None:
    fake(service).max_requests = 0

    async def run() -> None:
        with pytest.raises(OverloadedError):
            opened(service, order())

    asyncio.run(run())
    assert service.outcomes.get("", "id-1") is None


def test_encoding_does_not_hold_the_loop_up(service: Service) -> None:
    release = threading.Event()

    class SlowForm(RawBytes):
        def piece(self, waveform: np.ndarray) -> bytes:
            assert release.wait(10)
            return super().piece(waveform)

    async def run() -> None:
        # What is raw and short is there before a thread would have woken.
        coded = order(format="mp3")
        async with Utterance(service, coded, lambda rate_hz: SlowForm("pcm", rate_hz)) as utterance:
            first = asyncio.ensure_future(anext(utterance))
            await asyncio.sleep(0)  # the loop goes on while the thread waits
            assert not first.done()
            release.set()
            assert await first

    asyncio.run(run())


def test_a_request_is_streamed_or_not_as_it_says(service: Service) -> None:
    request = SpeechRequest("id-2.0", "Hello.", stream=True)
    asyncio.run(said(service, order(request)))
    assert fake(service).requests == [request]


def test_a_text_in_parts_with_a_wrong_tag_is_refused_and_no_error_of_ours(service: Service) -> None:
    service = replace(service, info=structs.replace(INFO, max_prompt_chars=10))

    async def run() -> None:
        with pytest.raises(RequestError, match="nonsense"):
            opened(service, order(SpeechRequest("id-1.0", "One sentence. Another. <|nonsense|>")))

    asyncio.run(run())
    counted = service.metrics.render().decode()
    assert 'stentor_speech_requests_total{finish_reason="",outcome="refused"} 1.0' in counted

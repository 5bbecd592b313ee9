"""The server in front of a real pipeline, whose one stage says a tone: the two agree on what a stream is."""

from collections.abc import Callable, Iterator

import pytest

from stentor.audio.formats import to_pcm16
from stentor.config import PipelineConfig
from stentor.errors import RequestError, to_failure
from stentor.pipeline.pipeline import Pipeline
from stentor.request import Audio, FinishReason, SpeechRequest
from stentor.server.app import create_app
from stentor.stages.base import Payload, Stage, StageSpec
from tests.server.conftest import Front, Running
from tests.server.fakes import FRAME, INFO, RATE, USAGE, config, tone, voices


class ToneStage:
    """Says the tone frame by frame; for "endless" it does not end, and "bad" is refused."""

    def __init__(self) -> None:
        self.speaking: dict[str, tuple[SpeechRequest, int]] = {}

    def add(self, payload: Payload) -> None:
        assert isinstance(payload.data, SpeechRequest)
        self.speaking[payload.request_id] = (payload.data, 0)

    def step(self) -> list[Payload]:
        return [self._next(request_id) for request_id in list(self.speaking)]

    def _next(self, request_id: str) -> Payload:
        request, at = self.speaking.pop(request_id)
        if request.text == "bad":
            return Payload(request_id, last=True, failure=to_failure(RequestError("a bad text")))
        waveform = tone(0.4)
        last = at + FRAME >= len(waveform) and request.text != "endless"
        ending = {"finish_reason": FinishReason.STOP, "usage": USAGE} if last else {}
        if not last:
            self.speaking[request_id] = (request, (at + FRAME) % len(waveform))
        return Payload(request_id, Audio(waveform[at : at + FRAME], RATE, **ending), last=last)

    def abort(self, request_id: str) -> None:
        self.speaking.pop(request_id, None)

    def has_work(self) -> bool:
        return bool(self.speaking)

    def stats(self) -> dict[str, float]:
        return {"kv_blocks_used": len(self.speaking)}

    def close(self) -> None:
        pass


def build_tone() -> Stage:
    return ToneStage()


@pytest.fixture
def server(serve: Callable[..., Running], front_and_port: tuple[Front, int]) -> Iterator[Running]:
    front, _ = front_and_port
    running = serve()
    pipeline = Pipeline([StageSpec("tone", build_tone)], PipelineConfig(workers="thread", max_requests=2))
    pipeline.start()
    front.app = create_app(pipeline, INFO, voices(), config())
    yield running
    pipeline.close()


def test_streamed_and_whole_are_the_same_audio(server: Running) -> None:
    assert server.http.get("/health").status_code == 200
    whole = server.speech(response_format="pcm")
    assert whole.content == server.speech(response_format="pcm", stream=True).content == to_pcm16(tone(0.4))
    assert whole.headers["X-Finish-Reason"] == "stop"


def test_a_refusal_of_a_stage_is_a_real_status(server: Running) -> None:
    for stream in (False, True):
        response = server.speech(input="bad", stream=stream)
        assert (response.status_code, response.json()["error"]["message"]) == (400, "a bad text")


def test_a_reader_who_leaves_frees_the_place_and_the_blocks(server: Running) -> None:
    blocks = 'stentor_stage_kv_blocks_used{stage="tone"}'
    for _ in range(5):  # more than there are places
        body = {"input": "endless", "stream": True}
        with server.http.stream("POST", "/v1/audio/speech", json=body) as response:
            assert response.status_code == 200
            next(response.iter_raw())
        server.pipeline.wait_until(lambda: server.metric('stentor_requests{state="open"}') == 0)
    server.pipeline.wait_until(lambda: server.metric(blocks) == 0)
    assert server.speech().status_code == 200

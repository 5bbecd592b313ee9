"""Laws of stages without a pipeline: records go through in order, failures are raised, stages are closed."""

import pytest

from stentor.errors import InternalError, RequestError, to_failure
from stentor.request import SpeechRequest
from stentor.stages.base import Payload, StageSpec
from stentor.stages.inline import InlineStages


class Repeat:
    """Hands each record on `times` times, one per step; a text of 'bad' is a failure."""

    closed = 0

    def __init__(self, times: int) -> None:
        self._times = times
        self._waiting: list[Payload] = []

    def add(self, payload: Payload) -> None:
        self._waiting += [payload] * self._times

    def step(self) -> list[Payload]:
        payload = self._waiting.pop(0)
        assert isinstance(payload.data, SpeechRequest)
        if payload.data.text == "bad":
            return [Payload(payload.request_id, last=True, failure=to_failure(RequestError("mend it")))]
        return [payload]

    def abort(self, request_id: str) -> None:
        raise InternalError("nobody aborts here")

    def has_work(self) -> bool:
        return bool(self._waiting)

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        Repeat.closed += 1


SPECS = [StageSpec("first", Repeat, {"times": 2}), StageSpec("second", Repeat, {"times": 3})]


def test_everything_that_comes_out_of_one_stage_goes_through_the_next() -> None:
    before = Repeat.closed
    with InlineStages(SPECS) as stages:
        records = stages.run("r", SpeechRequest("r", "good"))
    assert [record.text for record in records if isinstance(record, SpeechRequest)] == ["good"] * 6
    assert Repeat.closed == before + 2


def test_a_failure_is_raised_as_it_was() -> None:
    with InlineStages(SPECS) as stages, pytest.raises(RequestError, match="mend it"):
        stages.run("r", SpeechRequest("r", "bad"))

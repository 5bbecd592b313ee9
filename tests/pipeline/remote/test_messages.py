"""Only those who share a secret talk, and times are those of the one who is told."""

import time

import pytest

from stentor.errors import InternalError
from stentor.stages.base import StageTimes
from tests.pipeline import fakes
from tests.pipeline.remote.ends import front, serving
from tests.pipeline.test_pipeline import check_clean, end_of


@pytest.mark.parametrize(("ours", "theirs", "works"), [("a", "a", True), ("a", "b", False), ("", "b", False)])
def test_only_who_knows_the_secret_is_served(
    ours: str, theirs: str, works: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(worker_secret=theirs) as server:
        if works:
            with front(server.address, secret=ours) as pipeline:
                assert end_of(pipeline.submit(fakes.request("a"))) is None
        else:
            refused = pytest.raises(InternalError, match="not ready within")
            with refused, front(server.address, secret=ours, start_timeout_s=0.5):
                pass
            assert not server._sessions
            # It is tried several times, and said once.
            assert sum("is the secret the same" in message for message in caplog.messages) == 1


def test_times_are_told_on_the_clock_of_the_front_door() -> None:
    passed: list[StageTimes] = []
    with serving(0.005) as server, front(server.address) as pipeline:
        pipeline.when_passed(lambda _, times: passed.extend(times))
        began_s = time.monotonic()
        assert end_of(pipeline.submit(fakes.request("a"))) is None
        check_clean(pipeline)
    assert [one.stage for one in passed] == list(fakes.KINDS)
    for one in passed:
        assert one.first_s is not None
        assert began_s < one.came_s < one.first_s < time.monotonic()

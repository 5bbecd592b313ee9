"""Laws of a caller's share, on a clock that the test moves."""

import gc
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.errors import RateLimitedError
from stentor.server.keys import Key
from stentor.server.quota import Budget, Quota


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Request:
    released = False

    def __init__(self, request_id: str = "") -> None:
        self.request_id = request_id or uuid.uuid4().hex


def quota(clock: Clock, **limits: int) -> Quota:
    return Quota(Key("alice", b"", **limits), clock)


def accepted(share: Quota, characters: int = 1) -> Request:
    share.check()
    request = Request()
    share.take(characters, request)
    return request


def test_no_limit_is_none() -> None:
    share = quota(Clock())
    for _ in range(1000):
        accepted(share, 10_000)


def test_a_minutes_requests_may_come_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    share = quota(clock, requests_per_minute=6)
    for _ in range(6):
        accepted(share)
    with pytest.raises(RateLimitedError, match="6 requests a minute") as caught:
        accepted(share)
    assert caught.value.retry_after_s == pytest.approx(10)
    clock.now_s += caught.value.retry_after_s + 1e-6
    accepted(share)
    with pytest.raises(RateLimitedError):
        accepted(share)


def test_a_text_longer_than_a_minutes_share_is_served_and_then_waited_for() -> None:
    clock = Clock()
    share = quota(clock, characters_per_minute=100)
    accepted(share, 350)
    with pytest.raises(RateLimitedError, match="100 characters a minute") as caught:
        accepted(share)
    assert caught.value.retry_after_s == pytest.approx(251 * 0.6)
    clock.now_s += caught.value.retry_after_s + 1e-6
    accepted(share)


def test_requests_under_way_count_until_they_end_or_nobody_holds_them() -> None:
    share = quota(Clock(), concurrent_requests=2)
    first, second = accepted(share), accepted(share)
    with pytest.raises(RateLimitedError, match="2 requests under way"):
        accepted(share)
    first.released = True
    third = accepted(share)
    del second
    gc.collect()
    accepted(share)
    assert not third.released


def test_the_parts_of_a_long_text_are_one_request_under_way() -> None:
    share = quota(Clock(), concurrent_requests=2)
    parts = [Request("long/1"), Request("long/2")]
    for number, part in enumerate(parts):
        share.take(1, part, requests=int(number == 0))
    second = accepted(share)
    with pytest.raises(RateLimitedError, match="2 requests under way"):
        share.check()
    parts[0].released = True
    with pytest.raises(RateLimitedError, match="2 requests under way"):
        share.check()
    parts[1].released = True
    share.check()
    assert not second.released


def test_a_refusal_costs_nothing() -> None:
    clock = Clock()
    share = quota(clock, requests_per_minute=1)
    accepted(share)
    for _ in range(50):
        with pytest.raises(RateLimitedError):
            share.check()
    clock.now_s += 60.1
    accepted(share)


@given(
    per_minute=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 120), st.integers(0, 300)), max_size=60),
)
def test_no_more_than_the_rate_and_one_minute_and_one_text_is_ever_spent(
    per_minute: int, steps: list[tuple[float, int]]
) -> None:
    clock = Clock()
    budget = Budget(per_minute, clock)
    spent = 0
    for pause_s, amount in steps:
        clock.now_s += pause_s
        if budget.wait_s() == 0:
            budget.take(amount)
            spent += amount
        elapsed_s = clock.now_s - Clock.now_s
        assert spent <= per_minute * (1 + elapsed_s / 60) + 300 + 1e-6

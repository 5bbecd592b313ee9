"""Laws of the listener's clock: it stands still exactly while nothing is left to play."""

import pytest

from stentor.playout import PlayoutClock

RATE = 24_000


def test_audio_that_comes_in_time_starves_nobody() -> None:
    clock = PlayoutClock(RATE)
    for at_s in (5.0, 5.1, 5.9, 7.4):
        clock.arrived(RATE, at_s)
    assert (clock.underruns, clock.starved_s) == (0, 0.0)


def test_audio_that_comes_late_starves_for_as_long_as_it_is_late() -> None:
    clock = PlayoutClock(RATE)
    clock.arrived(RATE // 2, 10.0)  # plays to 10.5
    clock.arrived(RATE // 2, 10.7)  # 0.2 late, plays to 11.2
    clock.arrived(RATE // 2, 11.0)  # in time, plays to 11.7
    clock.arrived(RATE // 2, 12.0)  # 0.3 late
    assert clock.underruns == 2
    assert clock.starved_s == pytest.approx(0.5)
    assert clock.longest_s == pytest.approx(0.3)


def test_no_samples_are_no_arrival() -> None:
    clock = PlayoutClock(RATE)
    clock.arrived(0, 1.0)
    clock.arrived(RATE, 2.0)
    clock.arrived(0, 9.0)
    clock.arrived(RATE, 3.0)
    assert clock.underruns == 0

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.audio.silence import TailTrim

RATE = 24_000
BLOCK = 480
KEPT = 2_400


def sound(seconds: float) -> np.ndarray:
    return (0.1 * np.sin(2 * np.pi * 300 * np.arange(round(seconds * RATE)) / RATE + 0.3)).astype(np.float32)


def hush(seconds: float) -> np.ndarray:
    """The noise floor of a decoder."""
    return (5e-4 * np.sin(2 * np.pi * 5_000 * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def trimmed(
    waveform: np.ndarray, patience_s: float = float("inf"), cuts: list[int] | None = None
) -> np.ndarray:
    trim = TailTrim(RATE, patience_s)
    pieces = np.split(waveform, sorted(cuts or []))
    return np.concatenate([*(trim.feed(piece) for piece in pieces), trim.finish()])


def test_a_silent_tail_is_left_out_but_for_100_ms() -> None:
    speech = sound(1.0)
    output = trimmed(np.concatenate((speech, hush(3.0))))
    np.testing.assert_array_equal(output[: len(speech)], speech)
    assert len(output) == len(speech) + KEPT


@pytest.mark.parametrize("tail_s", [0.0, 0.013, 0.099])
def test_a_short_tail_stays(tail_s: float) -> None:
    waveform = np.concatenate((sound(1.0), hush(tail_s)))
    np.testing.assert_array_equal(trimmed(waveform), waveform)


def test_silence_before_and_between_sounds_stays() -> None:
    waveform = np.concatenate((hush(1.0), sound(0.5), hush(2.0), sound(0.5)))
    for patience_s in (float("inf"), 0.5, 0.0):
        np.testing.assert_array_equal(trimmed(waveform, patience_s), waveform)


def test_a_click_at_the_very_end_is_a_sound() -> None:
    waveform = np.concatenate((sound(0.5), hush(1.0)))
    waveform[-3:] = 0.3
    np.testing.assert_array_equal(trimmed(waveform), waveform)


def test_silence_alone_is_not_nothing() -> None:
    assert len(trimmed(hush(1.0))) == RATE
    assert len(trimmed(np.zeros(0, np.float32))) == 0


def test_samples_that_are_no_numbers_are_not_hidden() -> None:
    assert np.isnan(trimmed(np.concatenate((sound(0.5), np.full(RATE, np.nan, np.float32))))).any()


def test_a_stream_is_held_up_for_no_longer_than_the_patience() -> None:
    trim = TailTrim(RATE, 0.5)
    held = 0
    for piece in np.split(np.concatenate((sound(1.0), hush(4.0))), 125):
        held += len(piece) - len(trim.feed(piece))
        assert held <= 0.5 * RATE + BLOCK
    assert len(trim.finish()) == 0


def test_speech_is_never_held() -> None:
    trim = TailTrim(RATE)
    waveform = np.concatenate((hush(0.2), sound(1.0)))
    assert sum(len(trim.feed(piece)) for piece in np.split(waveform, 30)) == len(waveform)


@settings(max_examples=50, deadline=None)
@given(
    parts=st.lists(st.tuples(st.booleans(), st.integers(1, 20_000)), max_size=6),
    cuts=st.lists(st.integers(0, 60_000), max_size=10),
    patience_s=st.sampled_from([float("inf"), 0.5, 0.1, 0.0]),
)
def test_only_a_tail_is_lost_however_it_is_cut(
    parts: list[tuple[bool, int]], cuts: list[int], patience_s: float
) -> None:
    waveform = np.concatenate(
        [np.zeros(0, np.float32), *((sound if loud else hush)(n / RATE) for loud, n in parts)]
    )
    output = trimmed(waveform, patience_s, cuts)
    np.testing.assert_array_equal(output, trimmed(waveform, patience_s))
    np.testing.assert_array_equal(output, waveform[: len(output)])
    lost = waveform[len(output) :]
    assert len(lost) == 0 or np.abs(lost).max() < 1e-2

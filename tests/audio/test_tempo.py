import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.audio.tempo import Tempo

RATE = 24_000
SPEEDS = [0.25, 0.5, 0.8, 0.97, 1.1, 1.5, 2.0, 3.0, 4.0]


def voice(seconds: float, pitch_hz: float = 137.0) -> np.ndarray:
    """Harmonics that swell and fade like syllables."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    harmonics = sum(np.sin(2 * np.pi * pitch_hz * n * time_s) / n for n in range(1, 9))
    return (0.2 * harmonics * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time_s))).astype(np.float32)


def changed(waveform: np.ndarray, speed: float, cuts: list[int] | None = None) -> np.ndarray:
    tempo = Tempo(speed, RATE)
    pieces = np.split(waveform, sorted(cuts or []))
    return np.concatenate([*(tempo.feed(piece) for piece in pieces), tempo.finish()])


def pitch_hz(waveform: np.ndarray) -> float:
    """By the strongest repetition between 60 and 400 Hz, over a second in the middle."""
    middle = waveform[len(waveform) // 2 - RATE // 2 :][:RATE].astype(np.float64)
    spectrum = np.square(np.abs(np.fft.rfft(middle, 4 * RATE)))
    repetition = np.fft.irfft(spectrum)[RATE // 400 : RATE // 60]
    return RATE / (int(np.argmax(repetition)) + RATE // 400)


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("num_samples", [0, 1, 100, 479, 960, 1_919, 1_921, 12_345, 60_000])
def test_the_length_is_the_inputs_over_the_speed(speed: float, num_samples: int) -> None:
    assert len(changed(voice(3.0)[:num_samples], speed)) == round(num_samples / speed)


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_pitch_stays(speed: float) -> None:
    waveform = voice(6.0)
    assert pitch_hz(changed(waveform, speed)) == pytest.approx(pitch_hz(waveform), rel=0.01)


@settings(max_examples=40, deadline=None)
@given(
    speed=st.sampled_from(SPEEDS) | st.floats(0.25, 4.0),
    num_samples=st.integers(0, 9_000),
    cuts=st.lists(st.integers(0, 9_000), max_size=12),
)
def test_any_chunking_gives_the_same_samples(speed: float, num_samples: int, cuts: list[int]) -> None:
    waveform = voice(1.0)[:num_samples]
    np.testing.assert_array_equal(changed(waveform, speed, cuts), changed(waveform, speed))


@pytest.mark.parametrize("speed", SPEEDS)
def test_both_ends_are_the_inputs_own(speed: float) -> None:
    waveform = voice(2.0)
    waveform[0] = 0.9
    waveform[-100:] = np.where(np.arange(100) % 2, 0.9, -0.9)
    output = changed(waveform, speed)
    np.testing.assert_array_equal(output[:240], waveform[:240])
    np.testing.assert_array_equal(output[-100:], waveform[-100:])


@pytest.mark.parametrize("speed", SPEEDS)
def test_there_are_no_seams(speed: float) -> None:
    waveform = voice(3.0)
    steepest = np.abs(np.diff(waveform)).max()
    assert np.abs(np.diff(changed(waveform, speed))).max() < 1.25 * steepest


@pytest.mark.parametrize("speed", SPEEDS)
def test_sound_comes_before_the_input_ends(speed: float) -> None:
    tempo = Tempo(speed, RATE)
    waveform = voice(3.0)
    assert len(tempo.feed(waveform[: round(0.160 * RATE) + 240])) > 0
    fed = round(0.160 * RATE) + 240
    made = len(tempo.feed(waveform[fed : 2 * RATE]))
    assert made > 1.75 * RATE / speed - 2 * 0.020 * RATE - 480


def test_a_word_keeps_its_order_and_silence_stays_silent() -> None:
    silence = np.zeros(RATE // 2, np.float32)
    waveform = np.concatenate((voice(1.0, 100), silence, voice(1.0, 200)))
    for speed in (0.5, 2.0):
        output = changed(waveform, speed)
        at = [round(part * RATE / speed) for part in (0.9, 1.1, 1.4, 1.6)]
        assert np.abs(output[at[1] : at[2]]).max() < 0.01
        assert np.abs(output[: at[0]]).max() > 0.1
        assert np.abs(output[at[3] :]).max() > 0.1

import numpy as np
import pytest

from stentor.audio.resample import Resampler, resample


def tone(frequency_hz: float, sample_rate_hz: int, seconds: float = 1.0) -> np.ndarray:
    time_s = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    return np.sin(2 * np.pi * frequency_hz * time_s).astype(np.float32)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_a_tone_stays_the_same_tone(rate_hz: int) -> None:
    moved = resample(tone(440, rate_hz), rate_hz, 24_000)
    inside = slice(1_000, -1_000)
    assert moved.dtype == np.float32
    assert len(moved) == 24_000
    np.testing.assert_allclose(moved[inside], tone(440, 24_000)[inside], atol=2e-4)


def test_what_the_lower_rate_cannot_hold_is_removed_not_folded_back() -> None:
    lowered = resample(tone(10_000, 48_000), 48_000, 16_000)
    assert np.abs(lowered[100:-100]).max() < 1e-4


def test_the_same_rate_changes_nothing() -> None:
    waveform = tone(440, 24_000)
    assert resample(waveform, 24_000, 24_000) is waveform


def test_nothing_stays_nothing() -> None:
    assert len(resample(np.zeros(0, np.float32), 16_000, 24_000)) == 0


@pytest.mark.parametrize("to_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("chunk", [1, 333, 960, 100_000])
def test_a_stream_is_the_whole_to_the_sample(to_hz: int, chunk: int) -> None:
    waveform = np.random.default_rng(0).standard_normal(4_801).astype(np.float32)
    resampler = Resampler(24_000, to_hz)
    pieces = [resampler.feed(waveform[at : at + chunk]) for at in range(0, len(waveform), chunk)]
    streamed = np.concatenate([*pieces, resampler.finish()])
    assert abs(len(streamed) - len(waveform) * to_hz / 24_000) <= 0.5
    np.testing.assert_array_equal(streamed, resample(waveform, 24_000, to_hz))

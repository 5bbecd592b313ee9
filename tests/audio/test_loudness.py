from fractions import Fraction

import av
import numpy as np
import pytest

from stentor.audio import loudness
from stentor.audio.loudness import Leveller

RATE = 24_000


def babble(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    """Noise in syllables, with pauses."""
    random = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * RATE)) / RATE
    syllables = np.maximum(0, np.sin(2 * np.pi * 2.3 * time_s)) * (np.sin(2 * np.pi * 0.4 * time_s) > -0.8)
    low = np.convolve(random.standard_normal(len(time_s)), np.ones(12) / 12, "same")
    return (level * syllables * low + 3e-4 * random.standard_normal(len(time_s))).astype(np.float32)


def levelled(
    waveform: np.ndarray, target_lufs: float, chunk: int = 960, *, whole: bool = False
) -> np.ndarray:
    leveller = Leveller(target_lufs, RATE, whole=whole)
    pieces = [leveller.feed(waveform[at : at + chunk]) for at in range(0, len(waveform), chunk)]
    return np.concatenate([*pieces, leveller.finish()])


def measured_by_libav(waveform: np.ndarray) -> float:
    graph = av.filter.Graph()
    source = graph.add_abuffer(format="flt", sample_rate=RATE, layout="mono", time_base=Fraction(1, RATE))
    meter = graph.add("ebur128", "metadata=1")
    sink = graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(waveform[np.newaxis], format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
    source.push(frame)
    source.push(None)
    measured = float("-inf")
    while True:
        try:
            measured = float(sink.pull().metadata["lavfi.r128.I"])
        except (av.error.BlockingIOError, av.error.EOFError):
            return measured


def test_a_full_sine_of_997_hz_is_3_01_below_full_scale() -> None:
    sine = np.sin(2 * np.pi * 997 * np.arange(3 * RATE) / RATE).astype(np.float32)
    for given in (sine, sine / 5):
        peak_db = 20 * np.log10(np.abs(levelled(given, -23, whole=True)).max())
        assert peak_db == pytest.approx(-23 + 3.01, abs=0.05)


@pytest.mark.parametrize("level", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("target_lufs", [-30, -23])
def test_a_whole_utterance_gets_the_loudness_that_was_asked_for(level: float, target_lufs: float) -> None:
    output = levelled(babble(5.0, level), target_lufs, whole=True)
    assert measured_by_libav(output) == pytest.approx(target_lufs, abs=0.3)


def test_all_that_was_heard_is_looked_at_once_for_a_whole_and_once_a_step_for_a_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []
    gated = loudness._gated
    monkeypatch.setattr(loudness, "_gated", lambda powers: (looks.append(len(powers)), gated(powers))[1])
    levelled(babble(10.0), -23, whole=True)
    assert looks == [100]
    looks.clear()
    levelled(babble(10.0), -23)
    assert looks[-1] == 100
    assert len(looks) == len(set(looks))


@pytest.mark.parametrize("level", [0.05, 0.1, 0.3])
def test_a_stream_comes_near_it(level: float) -> None:
    assert measured_by_libav(levelled(babble(4.0, level), -23)) == pytest.approx(-23, abs=2.0)
    assert measured_by_libav(levelled(babble(60.0, level), -23)) == pytest.approx(-23, abs=0.5)


@pytest.mark.parametrize("whole", [False, True])
def test_no_sample_is_clipped_and_none_is_lost(whole: bool) -> None:
    waveform = babble(4.0, 0.2)
    waveform[40_000] = 0.9
    output = levelled(waveform, -9, whole=whole)
    assert len(output) == len(waveform)
    assert np.abs(output).max() <= 0.981


@pytest.mark.parametrize("chunk", [1_000_000, 777, 2_400])
def test_any_chunking_gives_the_same_samples(chunk: int) -> None:
    waveform = babble(3.0)
    np.testing.assert_array_equal(levelled(waveform, -20, chunk), levelled(waveform, -20))


def test_the_gain_moves_by_3_db_a_second_at_most() -> None:
    waveform = np.concatenate((babble(4.0, 0.1), babble(4.0, 0.01)))
    output = levelled(waveform, -23)
    sounds = np.abs(waveform) > 1e-3
    gain_db = 20 * np.log10(np.abs(output[sounds] / waveform[sounds]))
    place_s = np.flatnonzero(sounds) / RATE
    early, late = gain_db[:-2_000], gain_db[2_000:]
    assert (np.abs(late - early) <= 3.1 * (place_s[2_000:] - place_s[:-2_000]) + 0.31).all()


def test_silence_stays_silence() -> None:
    for whole in (False, True):
        assert not levelled(np.zeros(RATE, np.float32), -16, whole=whole).any()
        assert len(levelled(np.zeros(0, np.float32), -16, whole=whole)) == 0


def test_a_stream_is_held_up_for_400_ms_of_sound_and_then_for_100() -> None:
    leveller = Leveller(-23, RATE)
    waveform = np.concatenate((np.zeros(4_800, np.float32), babble(4.0)[:]))
    fed = made = 0
    first = None
    for at in range(0, len(waveform), 240):
        made += len(leveller.feed(waveform[at : at + 240]))
        fed += 240
        if made and first is None:
            first = fed
        assert first is None or fed - made <= 2 * 2_400
    assert first is not None
    assert first <= 4_800 + round(0.9 * RATE)

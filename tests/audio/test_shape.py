from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.audio.formats import FORMATS, Encoder, encode_file
from stentor.audio.load import decode
from stentor.audio.shape import Shape, Shaper
from stentor.errors import RequestError
from tests.audio.test_tempo import voice
from tests.sound import shape_whole

RATE = 24_000

shapes = st.builds(
    Shape,
    speed=st.sampled_from([0.25, 0.8, 1.0, 1.7, 4.0]),
    sample_rate_hz=st.sampled_from([None, 8_000, 24_000, 44_100, 48_000]),
    loudness_lufs=st.sampled_from([None, -23.0]),
    trim_silence=st.booleans(),
)


def shaped(waveform: np.ndarray, shape: Shape, cuts: list[int] | None = None) -> np.ndarray:
    shaper = Shaper(shape, RATE)
    pieces = np.split(waveform, sorted(cuts or []))
    return np.concatenate([*(shaper.feed(piece) for piece in pieces), shaper.finish()])


def test_the_default_changes_no_sample() -> None:
    waveform = voice(1.0)
    np.testing.assert_array_equal(shaped(waveform, Shape()), waveform)
    np.testing.assert_array_equal(shape_whole(waveform, Shape(), RATE), waveform)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, cuts=st.lists(st.integers(0, 24_000), max_size=8), tail=st.integers(0, 20_000))
def test_any_chunking_gives_the_same_samples(shape: Shape, cuts: list[int], tail: int) -> None:
    waveform = np.concatenate((voice(1.0), np.zeros(tail, np.float32)))
    np.testing.assert_array_equal(shaped(waveform, shape, cuts), shaped(waveform, shape))


@settings(max_examples=40, deadline=None)
@given(shape=shapes, tail=st.integers(0, 12_000))
def test_a_stream_is_the_file_but_for_the_loudness(shape: Shape, tail: int) -> None:
    waveform = np.concatenate((voice(1.0), np.zeros(tail, np.float32)))
    stream, file = shaped(waveform, shape), shape_whole(waveform, shape, RATE)
    assert len(stream) == len(file)
    if shape.loudness_lufs is None:
        np.testing.assert_array_equal(stream, file)


@pytest.mark.parametrize("speed", [0.25, 1.0, 1.3, 4.0])
@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100])
def test_the_length_is_exact(speed: float, rate_hz: int) -> None:
    waveform = voice(1.234)
    shape = Shape(speed=speed, sample_rate_hz=rate_hz)
    at_own_rate = round(len(waveform) / speed)
    assert abs(len(shaped(waveform, shape)) - at_own_rate * rate_hz / RATE) <= 0.5
    assert Shaper(shape, RATE).sample_rate_hz == rate_hz


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("way", ["file", "stream"])
def test_a_click_at_the_end_is_heard_in_every_format(format: str, speed: float, way: str) -> None:
    waveform = np.concatenate((voice(0.6), np.zeros(4_800, np.float32)))
    waveform[-60:] = 0.8 * np.sin(np.arange(60))
    shaper, encoder = Shaper(Shape(speed=speed), RATE), Encoder(format, RATE)
    if way == "file":
        data = encode_file(shape_whole(waveform, Shape(speed=speed), RATE), format, RATE)
    else:
        pieces = [encoder.encode(shaper.feed(waveform[at : at + 960])) for at in range(0, len(waveform), 960)]
        data = b"".join([*pieces, encoder.encode(shaper.finish()), encoder.finish()])
    if format == "pcm":
        heard = np.frombuffer(data, "<i2") / np.float32(32_767)
    else:
        heard = decode(data, sample_rate_hz=RATE, max_seconds=60)
    loudest = int(np.argmax(np.abs(heard[-RATE // 10 :]))) + max(0, len(heard) - RATE // 10)
    assert np.abs(heard[loudest]) > 0.2
    # What a codec puts before and behind is less than 2,300 samples.
    assert 0 <= len(heard) - loudest < 2_300
    assert len(heard) >= round(len(waveform) / speed)


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"speed": 0.2}, "speed"),
        ({"speed": 4.1}, "speed"),
        ({"speed": float("nan")}, "speed"),
        ({"sample_rate_hz": 7_999}, "sample_rate"),
        ({"sample_rate_hz": 96_000}, "sample_rate"),
        ({"loudness_lufs": 0.0}, "loudness_lufs"),
        ({"loudness_lufs": float("nan")}, "loudness_lufs"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(wish: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError, match="must be from") as caught:
        Shape(**wish)
    assert caught.value.param == param

"""Laws of what may become a voice, with the built-in voice as the speaker."""

from collections.abc import Callable

import numpy as np
import pytest

from stentor.audio.enroll import enroll
from stentor.config import settings
from stentor.errors import RequestError, TooLargeError
from stentor.request import Array
from stentor.tts import TTS

RATE_HZ = 24_000
TIME_S = np.arange(4 * RATE_HZ) / RATE_HZ
NOISE = np.random.default_rng(0).standard_normal(len(TIME_S))


@pytest.fixture(scope="module")
def sentence() -> Array:
    """Three seconds of speech, at half of full scale."""
    with TTS() as tts:
        waveform = tts.speak("The old dog saw the small boat near the river.", seed=0).waveform
    return (0.5 * waveform / np.abs(waveform).max()).astype(np.float32)


def silence(seconds: float) -> Array:
    return np.zeros(round(seconds * RATE_HZ), np.float32)


def seconds_of(waveform: Array) -> float:
    return len(waveform) / RATE_HZ


def test_silence_around_speech_is_cut_away(sentence: Array) -> None:
    trimmed = enroll(np.concatenate([silence(2), sentence, silence(3)]), RATE_HZ, 30, whole=True)
    assert trimmed.dtype == np.float32
    assert seconds_of(sentence) - 0.4 < seconds_of(trimmed) < seconds_of(sentence) + 0.4
    # Nothing of the speech is lost: its energy is there.
    assert np.sum(trimmed**2) == pytest.approx(np.sum(sentence**2), rel=1e-3)


def test_what_ends_within_a_sound_gets_an_end(sentence: Array) -> None:
    # At the end of the loudest fifth of a second: what has just begun there would be taken for a click.
    energy, size = np.cumsum(sentence.astype(np.float64) ** 2), round(0.2 * RATE_HZ)
    end = int(np.argmax(energy[RATE_HZ + size :] - energy[RATE_HZ:-size])) + RATE_HZ + size
    loudest = int(np.argmax(np.abs(sentence[end - size // 4 : end]))) + end - size // 4
    trimmed = enroll(sentence[:loudest], RATE_HZ, 30, whole=False)
    assert np.abs(trimmed[-round(0.2 * RATE_HZ) :]).max() == 0
    assert np.abs(np.diff(trimmed)).max() < 0.3


def test_too_much_is_cut_in_a_pause_or_refused_with_its_transcript(sentence: Array) -> None:
    many = np.concatenate([part for _ in range(6) for part in (sentence, silence(0.4))])
    trimmed = enroll(many, RATE_HZ, 10, whole=False)
    assert 5 < seconds_of(trimmed) <= 10
    assert np.abs(trimmed[-round(0.1 * RATE_HZ) :]).max() < 0.01
    with pytest.raises(TooLargeError, match="leave the transcript out") as caught:
        enroll(many, RATE_HZ, 10, whole=True)
    assert caught.value.param == "audio_sample"


def test_the_shortest_limit_that_may_be_set_leaves_room_for_a_voice(sentence: Array) -> None:
    limit_s = next(item.minimum for item in settings() if item.name == "max_seconds")
    assert limit_s is not None
    assert 1 < seconds_of(enroll(sentence, RATE_HZ, limit_s, whole=False)) <= limit_s
    # The quietest place of the second half comes too early.
    dip = np.concatenate([sentence[: round(0.95 * RATE_HZ)], silence(0.1), sentence[round(0.95 * RATE_HZ) :]])
    assert 1 < seconds_of(enroll(dip, RATE_HZ, limit_s, whole=False)) <= limit_s


def test_too_much_without_a_pause_is_cut_where_it_is_quietest(sentence: Array) -> None:
    dense = np.concatenate([sentence[2400:-4800]] * 6) + 0.02 * np.random.default_rng(1).standard_normal(1)
    assert 2.5 < seconds_of(enroll(dense.astype(np.float32), RATE_HZ, 6, whole=False)) <= 6


def test_one_sentence_in_a_long_silence_is_found(sentence: Array) -> None:
    room = 0.0005 * np.random.default_rng(2).standard_normal(90 * RATE_HZ).astype(np.float32)
    room[40 * RATE_HZ : 40 * RATE_HZ + len(sentence)] += sentence
    assert seconds_of(enroll(room, RATE_HZ, 30, whole=True)) < seconds_of(sentence) + 0.5


def test_a_click_is_no_beginning(sentence: Array) -> None:
    recording = np.concatenate([silence(2), sentence, silence(1)])
    recording[RATE_HZ // 2 : RATE_HZ // 2 + 200] = 0.5
    assert seconds_of(enroll(recording, RATE_HZ, 30, whole=True)) < seconds_of(sentence) + 0.5


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
def test_any_rate_of_speech_is_speech(sentence: Array, rate_hz: int) -> None:
    from stentor.audio.resample import resample

    assert len(enroll(resample(sentence, RATE_HZ, rate_hz), rate_hz, 30, whole=True)) > 1.5 * rate_hz


@pytest.mark.parametrize("noise", [0.001, 0.01])
def test_speech_in_some_noise_is_speech(sentence: Array, noise: float) -> None:
    noisy = np.concatenate([silence(0.5), sentence, silence(0.5)])
    noisy = noisy + noise * np.random.default_rng(3).standard_normal(len(noisy))
    enroll(noisy.astype(np.float32), RATE_HZ, 30, whole=True)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda speech: speech * 0, "is silent"),
        (lambda speech: speech * 0.003, "too quiet"),
        (lambda speech: np.clip(speech * 20, -1, 1), "clipped"),
        (lambda speech: speech[: RATE_HZ // 2], r"holds 0\.\d s of speech: give at least 1 s"),
    ],
)
def test_speech_of_no_use_is_refused_in_words(
    sentence: Array, change: Callable[[Array], Array], complaint: str
) -> None:
    with pytest.raises(RequestError, match=complaint) as caught:
        enroll(change(sentence), RATE_HZ, 30, whole=True)
    assert caught.value.param == "audio_sample"


@pytest.mark.parametrize(
    "sound",
    [
        0.2 * NOISE,
        0.1 * NOISE * (1 + np.sin(2 * np.pi * 4 * TIME_S)),
        0.3 * np.sin(2 * np.pi * 440 * TIME_S),
        0.1 * TIME_S * np.sin(2 * np.pi * 220 * TIME_S),
        sum(0.1 * np.sin(2 * np.pi * 50 * k * TIME_S) for k in range(1, 8)),
    ],
    ids=["noise", "waves", "tone", "swell", "hum"],
)
def test_what_is_no_speech_is_refused(sound: Array) -> None:
    with pytest.raises(RequestError, match="does not sound like speech"):
        enroll(sound.astype(np.float32), RATE_HZ, 30, whole=True)


@pytest.mark.parametrize("samples", [0, 1, 100, 241, 5000])
def test_scraps_are_refused(samples: int) -> None:
    with pytest.raises(RequestError):
        enroll(0.5 * np.ones(samples, np.float32), RATE_HZ, 30, whole=True)

"""Laws of the judge: it hears what is said, and nothing else."""

import numpy as np
import pytest

from stentor import TTS
from stentor.audio.formats import encode_file, to_pcm16
from tests.clients.hearing import LONG_TEXT, OTHER_SENTENCE, SENTENCE, assert_says, waveform_of


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    with TTS() as tts:
        return tts.speak(SENTENCE, seed=1).waveform


def test_the_right_words_are_heard_in_any_form(speech: np.ndarray) -> None:
    assert_says(to_pcm16(speech), SENTENCE, rate_hz=24_000)
    for format in ("wav", "mp3", "opus", "aac", "flac"):
        assert_says(encode_file(speech, format, 24_000), SENTENCE)


@pytest.mark.parametrize("text", [OTHER_SENTENCE, LONG_TEXT])
def test_other_words_are_not_heard(text: str, speech: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="heard"):
        assert_says(to_pcm16(speech), text, rate_hz=24_000)


def test_half_a_sentence_silence_and_noise_are_not_the_sentence(speech: np.ndarray) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 48_000)
    for waveform in (speech[: len(speech) // 2], np.zeros(48_000), noise, speech[::-1]):
        with pytest.raises(AssertionError, match="heard"):
            assert_says(to_pcm16(waveform), SENTENCE, rate_hz=24_000)


def test_half_a_sample_is_an_error() -> None:
    with pytest.raises(AssertionError, match="half a sample"):
        waveform_of(bytes(3), rate_hz=24_000)

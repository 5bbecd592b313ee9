"""Knows what was said in audio that a client received: decodes it, and lets PocketSphinx choose the words.

Each word of the expected sentence competes with twenty others, ten of them near in sound. Chance is 5 %, and
another sentence is not heard at all.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np

from stentor.audio.load import decode
from training.recognition import ForcedChoice, Recogniser, word_errors

RATE_HZ = 24_000

# Sentences that the built-in voice says well with any seed.
SENTENCE = "The golden sailor follows the quiet captain again."
OTHER_SENTENCE = "The clever farmer opens the heavy basket today."
LONG_TEXT = " ".join([SENTENCE, OTHER_SENTENCE, "The lazy captain remembers the happy teacher."])

# Of the words, how many may be misheard: the voice is small, and so is the recogniser.
_TOLERANCE = 0.25


def words_of(text: str) -> list[str]:
    """The words of a text as the recogniser spells them."""
    return re.findall(r"[a-z']+", text.lower())


def heard(audio: bytes | Path, text: str, *, rate_hz: int | None = None) -> list[str]:
    """The words in `audio` if it could be `text`: the bytes of a file, or of 16-bit mono PCM at `rate_hz`."""
    waveform = waveform_of(audio.read_bytes() if isinstance(audio, Path) else audio, rate_hz=rate_hz)
    recogniser = _recogniser()
    recogniser.use(_grammar(text))
    return recogniser.words(waveform, RATE_HZ)


def assert_says(audio: bytes | Path, text: str, *, rate_hz: int | None = None) -> None:
    """Fail unless the audio is speech, whole, and says these words."""
    words = words_of(text)
    found = heard(audio, text, rate_hz=rate_hz)
    assert word_errors(words, found) <= _TOLERANCE * len(words), f"expected {words}, heard {found}"


def waveform_of(audio: bytes, *, rate_hz: int | None = None) -> np.ndarray:
    """Mono float32 [num_samples] at 24 kHz of a file, or of raw 16-bit mono PCM at `rate_hz`."""
    if rate_hz is None:
        return decode(audio, sample_rate_hz=RATE_HZ, max_seconds=120)
    assert len(audio) % 2 == 0, f"{len(audio)} bytes: half a sample"
    waveform = np.frombuffer(audio, "<i2").astype(np.float32) / 32_768
    if rate_hz == RATE_HZ:
        return waveform
    import soxr

    return np.asarray(soxr.resample(waveform, rate_hz, RATE_HZ))


@cache
def _grammar(text: str) -> str:
    return ForcedChoice().grammar(words_of(text))


@cache
def _recogniser() -> Recogniser:
    return Recogniser()

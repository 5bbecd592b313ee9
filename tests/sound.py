"""What tests do with sound that nobody else does: read a file as it is, shape a whole utterance at once."""

import wave
from pathlib import Path

import numpy as np

from stentor.audio.shape import Shape, Shaper
from stentor.request import Array


def read_wav(path: Path) -> tuple[Array, int]:
    """A 16-bit mono file as the standard library reads it: float32 [num_samples], and its rate in Hz."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return samples.astype(np.float32) / 32_768, file.getframerate()


def shape_whole(waveform: Array, shape: Shape, sample_rate_hz: int) -> Array:
    """A finished utterance, shaped."""
    shaper = Shaper(shape, sample_rate_hz, whole=True)
    return np.concatenate((shaper.feed(waveform), shaper.finish()))

"""Knows how a listener may want a stream (speed, loudness, rate, end), and shapes it so, as it comes.

Every door shapes audio here, between the model and the encoder, so that all of them mean the same by it.
"""

import math

import msgspec
import numpy as np

from stentor.audio.loudness import Leveller
from stentor.audio.resample import Resampler
from stentor.audio.silence import TailTrim
from stentor.audio.tempo import Tempo
from stentor.errors import RequestError
from stentor.request import Array

# How long a stream may be held up to see whether a silence is its end.
_PATIENCE_S = 0.5


class Shape(msgspec.Struct, frozen=True):
    """What a listener wants; the defaults leave the samples as the model made them, but for a silent tail.

    `speed` 2 takes half the time at the same pitch; `sample_rate_hz` None is the model's; `loudness_lufs` is
    the loudness after ITU-R BS.1770 (None: as it is); `trim_silence` leaves 100 ms of a silent end.
    """

    speed: float = 1.0
    sample_rate_hz: int | None = None
    loudness_lufs: float | None = None
    trim_silence: bool = True

    def __post_init__(self) -> None:
        _check("speed", self.speed, 0.25, 4.0)
        _check("sample_rate", self.sample_rate_hz, 8_000, 48_000)
        _check("loudness_lufs", self.loudness_lufs, -40, -5)


class Shaper:
    """Shapes one stream of mono float32 waveforms at `sample_rate_hz`; any chunking gives the same samples.

    `whole` is for a file that nobody hears before its end: all of a silent tail is seen, and the loudness is
    met exactly. A stream sees at most the last 0.5 s, and comes near the loudness (`Leveller`).
    `sample_rate_hz` is the rate of what comes out. Not to be called from two threads at once.
    """

    def __init__(self, shape: Shape, sample_rate_hz: int, *, whole: bool = False) -> None:
        self.sample_rate_hz = shape.sample_rate_hz or sample_rate_hz
        self._links: list[TailTrim | Tempo | Leveller | Resampler] = []
        if shape.trim_silence:
            self._links.append(TailTrim(sample_rate_hz, math.inf if whole else _PATIENCE_S))
        if shape.speed != 1:
            self._links.append(Tempo(shape.speed, sample_rate_hz))
        if shape.loudness_lufs is not None:
            self._links.append(Leveller(shape.loudness_lufs, sample_rate_hz, whole=whole))
        if self.sample_rate_hz != sample_rate_hz:
            self._links.append(Resampler(sample_rate_hz, self.sample_rate_hz))

    def feed(self, waveform: Array) -> Array:
        """What can be heard after these samples, float32 [num_samples]; may be empty."""
        for link in self._links:
            waveform = link.feed(waveform)
        return waveform

    def finish(self) -> Array:
        """The rest; the shaper is not used again."""
        rest = np.zeros(0, np.float32)
        for link in self._links:
            rest = np.concatenate((link.feed(rest), link.finish()))
        return rest


def _check(name: str, value: float | None, lowest: float, highest: float) -> None:
    if value is not None and not lowest <= value <= highest:
        raise RequestError(f"{name} is {value}, but must be from {lowest:g} to {highest:g}", param=name)

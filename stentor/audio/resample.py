"""Knows how to change a waveform's sample rate without aliasing, at once or as it comes."""

from typing import cast

import numpy as np
import soxr

from stentor.request import Array

# A linear-phase sinc of 20-bit precision whose pass band ends at 0.91 of the lower Nyquist frequency
# (https://sourceforge.net/projects/soxr/).
_QUALITY = "HQ"


def resample(waveform: Array, from_hz: int, to_hz: int) -> Array:
    """The same sound at another rate: float32 [num_samples * to_hz / from_hz, rounded], by soxr's HQ filter.

    `waveform` is mono float32 [num_samples].
    """
    if from_hz == to_hz or len(waveform) == 0:
        return waveform
    resampled = soxr.resample(np.ascontiguousarray(waveform, np.float32), from_hz, to_hz, quality=_QUALITY)
    return cast(Array, resampled)


class Resampler:
    """`resample` for one stream: the same samples, however they are cut into chunks."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality=_QUALITY)

    def feed(self, waveform: Array) -> Array:
        """What can be told after these samples, mono float32 [num_samples]; may be empty."""
        waveform = np.ascontiguousarray(waveform, np.float32)
        return cast(Array, self._stream.resample_chunk(waveform, last=False))

    def finish(self) -> Array:
        """The rest."""
        return cast(Array, self._stream.resample_chunk(np.zeros(0, np.float32), last=True))

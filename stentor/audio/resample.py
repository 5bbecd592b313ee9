"""Knows how to change a waveform's sample rate without aliasing."""

from typing import cast

import numpy as np
import soxr

from stentor.request import Array


def resample(waveform: Array, from_hz: int, to_hz: int) -> Array:
    """The same sound at another rate: float32 [num_samples * to_hz / from_hz, rounded], by soxr's HQ filter.

    The filter is a linear-phase sinc of 20-bit precision whose pass band ends at 0.91 of the lower Nyquist
    frequency (https://sourceforge.net/projects/soxr/). `waveform` is mono float32 [num_samples].
    """
    if from_hz == to_hz or len(waveform) == 0:
        return waveform
    resampled = soxr.resample(np.ascontiguousarray(waveform, np.float32), from_hz, to_hz, quality="HQ")
    return cast(Array, resampled)

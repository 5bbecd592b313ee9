"""Draws a sound: its waveform above its spectrogram."""

from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

WIDTH, WAVE_HEIGHT, SPECTRUM_HEIGHT = 900, 110, 170
# Six seconds fill the picture; more are drawn closer.
_LEAST_S = 6.0
_WINDOW, _TOP_HZ = 512, 8_000
_RANGE_DB = 70.0
_GROUND, _ACCENT, _GLOW = np.array([[246, 245, 241], [10, 110, 112], [12, 43, 51]], np.float32)


def draw(pcm: bytes, sample_rate_hz: int, *, whole: bool = False) -> Array:
    """The picture, uint8 [height, width, 3], of 16-bit little-endian mono samples; no sound is a blank.

    While more is to come a short sound leaves room for it; as a `whole` it fills the width.
    """
    picture = np.empty((WAVE_HEIGHT + SPECTRUM_HEIGHT, WIDTH, 3), np.float32)
    picture[:] = _GROUND
    samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(np.float32) / 32768
    if len(samples):
        shown = max(len(samples), 0 if whole else round(_LEAST_S * sample_rate_hz))
        edges = np.arange(WIDTH + 1) * shown // WIDTH
        edges = edges[edges <= len(samples)]
        _draw_wave(picture[:WAVE_HEIGHT], samples, edges)
        _draw_spectrum(picture[WAVE_HEIGHT:], samples, edges, sample_rate_hz)
    return picture.round().astype(np.uint8)


def _draw_wave(picture: Array, samples: Array, edges: Array) -> None:
    middle = WAVE_HEIGHT / 2
    for x, (start, end) in enumerate(pairwise(edges)):
        part = samples[start:end] if end > start else samples[start : start + 1]
        top, bottom = middle * (1 - part.max()), middle * (1 - part.min())
        picture[int(top) : max(int(top) + 1, int(np.ceil(bottom))), x] = _ACCENT


def _draw_spectrum(picture: Array, samples: Array, edges: Array, sample_rate_hz: int) -> None:
    padded = np.pad(samples, (_WINDOW, _WINDOW))
    starts = edges[:-1] + _WINDOW // 2
    frames = padded[starts[:, None] + np.arange(_WINDOW)] * np.hanning(_WINDOW)
    levels = 20 * np.log10(np.abs(np.fft.rfft(frames)) / (_WINDOW / 4) + 1e-9)
    bins = (np.arange(SPECTRUM_HEIGHT)[::-1] / SPECTRUM_HEIGHT * _TOP_HZ / sample_rate_hz * _WINDOW).astype(
        int
    )
    share = np.clip((levels[:, np.minimum(bins, levels.shape[1] - 1)].T + 80) / _RANGE_DB, 0, 1)[..., None]
    low, high = np.minimum(2 * share, 1), np.maximum(2 * share - 1, 0)
    colours = _GROUND + low * (_ACCENT - _GROUND) + high * (_GLOW - _ACCENT)
    picture[:, : len(starts)] = colours

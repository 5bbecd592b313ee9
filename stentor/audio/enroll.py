"""Knows what of a recording can serve as a voice: where speech begins and ends, and whether there is any."""

from itertools import pairwise

import numpy as np

from stentor.audio.load import is_silent
from stentor.errors import RequestError, TooLargeError
from stentor.request import Array

# Of a recording that is too long, this many times the limit are looked at for a good part.
READ_AHEAD = 4

_SHORTEST_SPEECH_S = 1.0
_HOP_S, _WINDOW_S = 0.01, 0.04
# Silence left around the speech; what ends within a sound is faded out and gets some.
_BEFORE_S, _AFTER_S, _FADE_S = 0.1, 0.25, 0.01
# A pause in which a recording may be cut.
_PAUSE_S = 0.15

# Levels in dB below full scale: what is speech lies so far below its own loud parts, or above the noise.
# Its loud parts are the loudest of so many seconds.
_BELOW_LOUD, _ABOVE_NOISE, _LOUD_S = 35.0, 6.0, 0.3
_QUIETEST = -45.0
# Share of the samples of speech that may be at the limit of the recording.
_CLIPPED = 0.005
# Speech: its level moves, a part of it has a pitch, and its spectrum changes.
_LEVEL_SPREAD, _VOICED_SHARE, _SPECTRUM_SPREAD = 8.0, 0.1, 3.0
_PITCH_HZ = 60, 400
_BANDS_HZ = 100, 300, 600, 1000, 1600, 2600, 4000


def enroll(waveform: Array, sample_rate_hz: int, max_seconds: float, *, whole: bool) -> Array:
    """The part of a recording that is to be a voice: mono float32 [num_samples], trimmed in silence.

    Of more speech than `max_seconds` the beginning is taken, up to a pause; if it must be taken `whole`
    (since there is a transcript of it) it is refused.

    Raises:
        RequestError: there is too little speech, or it is too quiet, clipped, or none.
        TooLargeError: it cannot be taken whole.
    """
    hop = round(_HOP_S * sample_rate_hz)
    levels = _levels(waveform, hop, round(_WINDOW_S * sample_rate_hz))
    if is_silent(waveform) or len(levels) < 2:
        raise _refuse("is silent: give a recording of speech")
    loud, noise = np.sort(levels)[-min(len(levels), round(_LOUD_S / _HOP_S))], np.percentile(levels, 10)
    if loud < _QUIETEST:
        raise _refuse(f"is too quiet ({loud:.0f} dBFS): record closer to the microphone, or louder")
    active = levels > max(loud - _BELOW_LOUD, min(noise + _ABOVE_NOISE, loud - _ABOVE_NOISE))
    begin, end = _extent(active)
    heard = end + round(_AFTER_S / _HOP_S)
    limit = int((max_seconds - _BEFORE_S - _AFTER_S) / _HOP_S)
    if end - begin > limit:
        if whole:
            raise TooLargeError(
                f"the recording holds {(end - begin) * _HOP_S:.0f} s of speech, but {max_seconds:g} s are "
                "the most: send a shorter piece with the words of that piece, or leave the transcript out",
                param="audio_sample",
            )
        end = heard = begin + _pause_before(active[begin:end], levels[begin:end], limit)
    _check_speech(waveform[begin * hop : end * hop], active[begin:end], levels[begin:end], sample_rate_hz)
    before, least = round(_BEFORE_S * sample_rate_hz), (end * hop) + round(_AFTER_S * sample_rate_hz)
    start = max(0, begin * hop - before)
    return _ending_in_silence(waveform[start : heard * hop], least - start, round(_FADE_S * sample_rate_hz))


def _levels(waveform: Array, hop: int, window: int) -> Array:
    """The level around each hop, in dB of full scale (RMS)."""
    power = np.concatenate(([0.0], np.cumsum(waveform.astype(np.float64) ** 2)))
    starts = np.arange(0, len(waveform), hop)
    low, high = np.clip(starts - window // 2, 0, None), np.clip(starts + window // 2, None, len(waveform))
    levels: Array = 10 * np.log10((power[high] - power[low]) / (high - low) + 1e-12)
    return levels


def _extent(active: Array) -> tuple[int, int]:
    """From the first to the last hop of speech; shorter than a window is a click."""
    steps = np.diff(np.concatenate(([0], active.astype(np.int8), [0])))
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    long = ends - starts > 2 * _WINDOW_S / _HOP_S
    if not long.any():
        raise _refuse("holds no speech that could be heard: give three to ten seconds of one speaker")
    return int(starts[long][0]), int(ends[long][-1])


def _pause_before(active: Array, levels: Array, limit: int) -> int:
    """Where to cut: at the last pause of the second half before `limit` hops, or where it is quietest.

    Not before there is enough speech, if there is so much.
    """
    enough = int(np.searchsorted(np.cumsum(active[:limit]), _SHORTEST_SPEECH_S / _HOP_S)) + 1
    first, pause = max(limit // 2, min(enough, limit - 1)), round(_PAUSE_S / _HOP_S)
    silent = np.convolve(~active[first:limit], np.ones(pause), "valid") == pause
    if silent.any():
        return first + int(np.flatnonzero(silent)[-1]) + pause // 2
    return first + int(np.argmin(levels[first:limit]))


def _check_speech(speech: Array, active: Array, levels: Array, sample_rate_hz: int) -> None:
    seconds = float(active.sum()) * _HOP_S
    if seconds < _SHORTEST_SPEECH_S:
        raise _refuse(
            f"holds {seconds:.1f} s of speech: give at least {_SHORTEST_SPEECH_S:g} s, better three to ten"
        )
    if float((np.abs(speech) > 0.985).mean()) > _CLIPPED:
        raise _refuse("is clipped (it was recorded too loud): lower the microphone's level and record again")
    spread = np.percentile(levels, 95) - np.percentile(levels, 5)
    voiced, bands = _sound(speech, active, sample_rate_hz)
    if spread < _LEVEL_SPREAD or voiced < _VOICED_SHARE or bands < _SPECTRUM_SPREAD:
        raise _refuse("does not sound like speech: give one speaker, without music or noise")


def _sound(speech: Array, active: Array, sample_rate_hz: int) -> tuple[float, float]:
    """The share of the sounding frames that have a pitch, and how far their spectrum moves, in dB."""
    size = round(_WINDOW_S * sample_rate_hz)
    hops = np.flatnonzero(active)[::2]
    starts = (hops * round(_HOP_S * sample_rate_hz)).clip(0, max(0, len(speech) - size))
    frames = speech[starts[:, None] + np.arange(min(size, len(speech)))] * np.hanning(min(size, len(speech)))
    spectrum = np.abs(np.fft.rfft(frames, 2 * size)) ** 2
    echo = np.fft.irfft(spectrum)[:, :size]
    # A window's own autocorrelation falls with the lag; the pitch's is measured against it.
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(size), 2 * size)) ** 2)[:size]
    shortest, longest = (sample_rate_hz // hz for hz in reversed(_PITCH_HZ))
    lags = slice(shortest, min(longest, size - size // 4))
    periodic = (echo[:, lags] / window[lags]).max(axis=1) / (echo[:, 0] / window[0] + 1e-12)
    edges = [round(hz * 2 * size / sample_rate_hz) for hz in _BANDS_HZ]
    bands = np.stack([spectrum[:, a:b].sum(axis=1) for a, b in pairwise(edges)], axis=1)
    shares = 10 * np.log10(bands / (bands.sum(axis=1, keepdims=True) + 1e-20) + 1e-6)
    return float((periodic > 0.6).mean()), float(shares.std(axis=0).mean())


def _ending_in_silence(part: Array, length: int, fade: int) -> Array:
    """The part, faded out and at least `length` samples long."""
    part = part.astype(np.float32)
    part[-fade:] *= np.linspace(1, 0, min(fade, len(part)), dtype=np.float32)
    return np.pad(part, (0, max(0, length - len(part))))


def _refuse(problem: str) -> RequestError:
    return RequestError(f"the recording {problem}", param="audio_sample")

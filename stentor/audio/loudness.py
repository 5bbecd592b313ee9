"""Knows how loud a waveform is heard, and how a stream is brought to a wanted loudness as it comes."""

import functools

import numpy as np

from stentor.request import Array

# ITU-R BS.1770-4: blocks of 400 ms, a step of 100 ms, what is below -70 LUFS does not count, nor what is
# 10 LU below the mean of the rest.
_STEP_S = 0.1
_STEPS_PER_BLOCK = 4
_OFFSET_DB = -0.691
_ABSOLUTE_GATE = 10 ** ((-70.0 - _OFFSET_DB) / 10)  # a power
_RELATIVE_GATE = 10 ** (-10.0 / 10)

_PEAK = 0.98
_MOST_GAIN_DB = 24.0
# Slow enough that no word is heard to swell.
_SLEW_DB = 0.3  # for each step


class Leveller:
    """Brings one stream to `target_lufs`; no sample passes 0.98.

    `whole` measures all of it and gives it one gain when it has ended. Otherwise the first 400 ms with a
    sound set the gain, which from then on follows the loudness of all that was heard, by 3 dB a second at
    most: a sentence comes within about 2 LU, a minute within 0.5 LU. That delays the first sound by 400 ms
    of audio, and what follows by 100 ms, to see peaks coming.
    """

    def __init__(self, target_lufs: float, sample_rate_hz: int, *, whole: bool = False) -> None:
        self._target_lufs = target_lufs
        self._whole = whole
        self._rate_hz = sample_rate_hz
        self._step = round(_STEP_S * sample_rate_hz)
        self._input = np.zeros(0, np.float32)  # behind `_recent`, not yet measured
        self._waiting: list[Array] = []  # measured steps that have no gain yet
        self._recent = np.zeros(0, np.float32)
        self._powers: list[float] = []
        self._wanted = 1.0
        self._gain: float | None = None

    def feed(self, waveform: Array) -> Array:
        """What has its gain after these samples, mono float32 [num_samples]; may be empty."""
        self._input = np.concatenate((self._input, waveform))
        ready = []
        while len(self._input) >= self._step:
            ready += self._measure(self._input[: self._step])
            self._input = self._input[self._step :]
        return np.concatenate([self._input[:0], *ready])

    def finish(self) -> Array:
        """The rest."""
        ready = self._measure(self._input) if len(self._input) else []
        if self._gain is None:
            self._gain = self._wanted = self._told()
        while self._waiting:
            ready.append(self._apply())
        return np.concatenate([self._input[:0], *ready])

    def _measure(self, step: Array) -> list[Array]:
        self._waiting.append(step)
        self._recent = np.concatenate((self._recent, step))[-_STEPS_PER_BLOCK * self._step :]
        self._powers.append(_power(self._recent, self._rate_hz))
        if self._gain is None and (self._whole or not self._heard()):
            return []
        self._wanted = self._told()
        self._gain = self._gain or self._wanted
        ready = []
        while len(self._waiting) > 1:
            ready.append(self._apply())
        return ready

    def _heard(self) -> bool:
        """Have 400 ms had a sound."""
        gate = max(self._powers) * _RELATIVE_GATE
        return sum(power > gate > 0 for power in self._powers) >= _STEPS_PER_BLOCK

    def _told(self) -> float:
        """The gain that what was measured so far asks for."""
        measured_lufs = _gated(self._powers)
        if measured_lufs == -np.inf:
            return 1.0
        return float(10 ** (min(self._target_lufs - measured_lufs, _MOST_GAIN_DB) / 20))

    def _apply(self) -> Array:
        """The first waiting step with a gain that moves to the wanted one, and passes no peak too high."""
        assert self._gain is not None
        step = self._waiting.pop(0)
        slew = 10 ** (_SLEW_DB / 20)
        wanted = min(max(self._wanted, self._gain / slew), self._gain * slew)
        begin = min(self._gain, _highest_gain(step))
        ahead = self._waiting[0] if self._waiting else step
        end = min(wanted, _highest_gain(step), _highest_gain(ahead))
        self._gain = end
        return np.asarray(step * np.linspace(begin, end, len(step), dtype=np.float32))


def _highest_gain(waveform: Array) -> float:
    peak = float(np.abs(waveform).max()) if len(waveform) else 0.0
    return _PEAK / peak if peak > 0 else float("inf")


def _gated(powers: list[float]) -> float:
    """The integrated loudness, in LUFS, of blocks by their weighted powers; -inf if all are silent."""
    audible = np.array(powers)
    audible = audible[audible > _ABSOLUTE_GATE]
    if not len(audible):
        return float("-inf")
    loud = audible[audible > audible.mean() * _RELATIVE_GATE]
    return _OFFSET_DB + 10 * float(np.log10(loud.mean()))


def _power(block: Array, sample_rate_hz: int) -> float:
    """The mean square of a block behind the K-weighting.

    That is applied to the block's spectrum, which is within 0.2 LU of filtering the samples.
    """
    spectrum = np.fft.rfft(block.astype(np.float64))
    squares = np.square(np.abs(spectrum)) * _k_weighting(len(block), sample_rate_hz)
    squares[1 : (len(block) + 1) // 2] *= 2
    return float(squares.sum()) / len(block) ** 2


@functools.lru_cache(maxsize=32)
def _k_weighting(num_samples: int, sample_rate_hz: int) -> Array:
    """The squared gain of the two filters of BS.1770-4 (its tables 1 and 2, for 48 kHz) at each bin."""
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(num_samples, 1 / sample_rate_hz) / 48_000)
    shelf = np.polyval((1.19839281085285, -2.69169618940638, 1.53512485958697), z) / np.polyval(
        (0.73248077421585, -1.69065929318241, 1.0), z
    )
    high_pass = np.polyval((1.0, -2.0, 1.0), z) / np.polyval((0.99007225036621, -1.99004745483398, 1.0), z)
    return np.asarray(np.square(np.abs(shelf * high_pass)))

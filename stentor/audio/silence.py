"""Knows what silence is, and how the silence behind the last word is left out of a stream."""

from collections import deque

import numpy as np

from stentor.request import Array

# A block is silent below this: a decoder's noise floor lies under it, the softest consonant above.
_SILENT_RMS = 10 ** (-55 / 20)
_BLOCK_S = 0.020
# Left behind the last sound, so that it can fade away.
_KEPT_S = 0.100


class TailTrim:
    """Holds silence back until a sound follows, and drops it, but for 100 ms, if none does.

    What a silence has beyond `patience_s` is let through, so that a stream is never held up for longer; so is
    what comes before the first sound. Whatever is let through is as it came.
    """

    def __init__(self, sample_rate_hz: int, patience_s: float = float("inf")) -> None:
        self._block = round(_BLOCK_S * sample_rate_hz)
        self._kept = round(_KEPT_S * sample_rate_hz)
        self._patience = patience_s * sample_rate_hz
        self._begun = np.zeros(0, np.float32)  # less than a block
        self._held: deque[Array] = deque()
        self._let_through = 0  # samples of the silence that `_held` goes on with
        self._heard = False

    def feed(self, waveform: Array) -> Array:
        """What can be let through after these samples, mono float32 [num_samples]; may be empty."""
        waveform = np.concatenate((self._begun, waveform))
        whole = len(waveform) // self._block * self._block
        self._begun = waveform[whole:]
        blocks = waveform[:whole].reshape(-1, self._block)
        silent = _are_silent(blocks)
        if not silent.any():  # as mostly: nothing to look at one by one
            return _join(self._let_go(waveform[:whole])) if whole else waveform[:0]
        pairs = zip(blocks, silent, strict=True)
        return _join([piece for block, is_silent in pairs for piece in self._look(block, bool(is_silent))])

    def finish(self) -> Array:
        """The rest, without the silence at its end."""
        begun = self._begun
        passed = self._look(begun, bool(_are_silent(begun[np.newaxis])[0])) if len(begun) else []
        kept = max(0, self._kept - self._let_through)
        return _join([*passed, _join(list(self._held))[:kept]])

    def _let_go(self, sound: Array) -> list[Array]:
        """What passes with a sound: the silence before it, and itself."""
        passed = [*self._held, sound]
        self._held.clear()
        self._heard, self._let_through = True, 0
        return passed

    def _look(self, block: Array, is_silent: bool) -> list[Array]:
        """Take the next block; gives the pieces that may pass now."""
        if not is_silent:
            return self._let_go(block)
        if not self._heard:
            return [block]
        self._held.append(block)
        if len(self._held) * self._block <= self._patience:
            return []
        self._let_through += self._block
        return [self._held.popleft()]


def _are_silent(blocks: Array) -> Array:
    """For each row of [blocks, samples] whether it is; what is not a number is the encoder's to refuse."""
    return np.asarray(np.sqrt(np.mean(np.square(blocks, dtype=np.float64), axis=1)) < _SILENT_RMS)


def _join(pieces: list[Array]) -> Array:
    return np.concatenate([np.zeros(0, np.float32), *pieces])

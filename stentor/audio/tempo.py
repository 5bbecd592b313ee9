"""Knows how to make a voice speak slower or faster at the same pitch, as its samples come."""

import numpy as np

from stentor.request import Array

# Each step lays one hop of sound down; the next is sought around its place, within a period of a low voice.
_HOP_S = 0.020
_SEARCH_S = 0.0125


class Tempo:
    """WSOLA for one stream: `speed` 2 takes half the time; the pitch stays.

    W. Verhelst and M. Roelands, "An overlap-add technique based on waveform similarity (WSOLA) for high
    quality time-scale modification of speech", ICASSP 1993. Pieces of the input are laid down one hop apart;
    each is taken near where the speed would have it, at the shift where it most resembles what would have
    followed the piece before it, and faded over that. What is sought where depends only on the samples that
    came before, so that any chunking gives the same output. It begins and ends with the input's own first
    and last samples, and its length is the input's over the speed, rounded.
    """

    def __init__(self, speed: float, sample_rate_hz: int) -> None:
        self._speed = speed
        self._hop = round(_HOP_S * sample_rate_hz)
        self._search = round(_SEARCH_S * sample_rate_hz)
        self._input = np.zeros(0, np.float32)
        self._dropped = 0  # samples that are no longer in `_input`
        self._made = 0
        self._continuation: Array | None = None  # what would follow the last piece, [hop]

    def feed(self, waveform: Array) -> Array:
        """What is certain after these samples, mono float32 [num_samples]; may be empty."""
        self._input = np.concatenate((self._input, waveform))
        return self._steps(ended=False)

    def finish(self) -> Array:
        """The rest."""
        body = self._steps(ended=True)
        return np.concatenate((body, self._end(self._length() - self._made)))

    def _length(self) -> int:
        return round((self._dropped + len(self._input)) / self._speed)

    def _steps(self, *, ended: bool) -> Array:
        pieces = [np.zeros(0, np.float32)]
        # The last two hops are the end's; a longer input can only allow more steps, never other ones.
        while self._length() - self._made > 2 * self._hop:
            last_start = self._dropped + len(self._input) - 2 * self._hop
            wanted = round(self._made * self._speed)
            if last_start < (0 if ended else wanted + self._search):
                break
            pieces.append(self._step(wanted, last_start))
        return np.concatenate(pieces)

    def _step(self, wanted: int, last_start: int) -> Array:
        """Lay one hop down, taken from around sample `wanted` but not behind `last_start`."""
        hop = self._hop
        if self._continuation is None:
            start = 0
        else:
            low = max(0, min(wanted - self._search, last_start))
            start = low + self._best_shift(low, min(wanted + self._search, last_start))
        at = start - self._dropped
        piece = self._faded(self._input[at : at + hop])
        self._continuation = self._input[at + hop : at + 2 * hop]
        self._made += hop
        self._forget(round(self._made * self._speed) - self._search)
        return piece

    def _best_shift(self, low: int, high: int) -> int:
        """How far behind `low` starts what is most like the continuation, by normalised correlation."""
        assert self._continuation is not None
        region = self._input[low - self._dropped : high - self._dropped + self._hop].astype(np.float64)
        likeness = np.correlate(region, self._continuation.astype(np.float64), "valid")
        energy = np.concatenate(([0.0], np.cumsum(region**2)))
        energy = energy[self._hop :] - energy[: -self._hop]
        return int(np.argmax(likeness / np.sqrt(np.maximum(energy, 1e-9))))

    def _forget(self, before: int) -> None:
        # Two hops stay for the end, wherever it comes.
        before = min(before, self._dropped + len(self._input) - 2 * self._hop)
        if before > self._dropped:
            self._input = self._input[before - self._dropped :]
            self._dropped = before

    def _end(self, num_samples: int) -> Array:
        """The last samples, as they came; for an input too short for a step, its start faded into its end."""
        own = self._input[-num_samples:] if num_samples else self._input[:0]
        if len(own) < num_samples:
            return np.pad(own, (0, num_samples - len(own)))
        if self._continuation is None:
            rise = np.linspace(0, 1, num_samples, dtype=np.float32)
            return np.asarray(self._input[:num_samples] * (1 - rise) + own * rise)
        half = num_samples // 2
        return np.concatenate((self._faded(own[:half]), own[half:]))

    def _faded(self, piece: Array) -> Array:
        """The piece, faded in over the continuation of the one before."""
        if self._continuation is None:
            return piece
        rise = np.square(np.sin(np.linspace(0, np.pi / 2, len(piece) + 2, dtype=np.float32)[1:-1]))
        return np.asarray(self._continuation[: len(piece)] * (1 - rise) + piece * rise)

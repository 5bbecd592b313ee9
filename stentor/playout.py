"""Knows when a listener who plays a stream as it comes runs dry; servers count it, benchmarks judge by it."""


class PlayoutClock:
    """A listener who plays from the first samples on and never skips: how often, and how long, did they wait.

    `underruns` counts the times that playback stood still, `starved_s` sums their seconds, `longest_s` is
    the longest.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self.underruns = 0
        self.starved_s = 0.0
        self.longest_s = 0.0
        self._sample_rate_hz = sample_rate_hz
        self._played_out_s: float | None = None

    def arrived(self, num_samples: int, at_s: float) -> None:
        """More samples, at a time of any monotonic clock; calls come in the order of time."""
        if num_samples == 0:
            return
        if self._played_out_s is None:
            self._played_out_s = at_s
        if at_s > self._played_out_s:
            waited_s = at_s - self._played_out_s
            self.underruns += 1
            self.starved_s += waited_s
            self.longest_s = max(self.longest_s, waited_s)
            self._played_out_s = at_s
        self._played_out_s += num_samples / self._sample_rate_hz

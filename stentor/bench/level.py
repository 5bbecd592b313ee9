"""One level of load: what each of its requests saw, and what they add up to."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self


@dataclass(frozen=True)
class Timing:
    """One request as its caller saw it.

    `first_s` (TTFA) and `total_s` count from its sending; `gaps_s` are the pauses between the chunks that
    follow (ITL); `underruns` is how often a listener who started at the first chunk ran dry, `starved_s` for
    how long (None: nobody listened).
    """

    first_s: float
    total_s: float
    audio_s: float
    gaps_s: tuple[float, ...] = ()
    underruns: int | None = None
    starved_s: float | None = None

    @classmethod
    def of(
        cls,
        arrivals: Sequence[tuple[float, float]],
        total_s: float,
        underruns: int | None = None,
        starved_s: float | None = None,
    ) -> Self:
        """That of a request by its `arrivals`, each its seconds since the sending and seconds of audio."""
        gaps = tuple(later[0] - earlier[0] for earlier, later in pairwise(arrivals))
        first_s = arrivals[0][0] if arrivals else total_s
        audio_s = sum(audio_s for _, audio_s in arrivals)
        return cls(first_s, total_s, audio_s, gaps, underruns, starved_s)


@dataclass(frozen=True)
class Level:
    """All requests at one concurrency; `wall_s` is from the first sending to the last end."""

    concurrency: int
    wall_s: float
    timings: Sequence[Timing]
    errors: Sequence[str] = ()
    load: float | None = None

    def row(self) -> dict[str, Any]:
        """The report's figures: rates over the wall clock, times in ms, RTF in seconds per audio second."""
        audio_s = sum(timing.audio_s for timing in self.timings)
        firsts = [timing.first_s * 1000 for timing in self.timings]
        gaps = [gap * 1000 for timing in self.timings for gap in timing.gaps_s]
        rtfs = [timing.total_s / timing.audio_s for timing in self.timings if timing.audio_s > 0]
        return {
            "concurrency": self.concurrency,
            "requests": len(self.timings),
            "errors": len(self.errors),
            "audio_s_per_s": _round(audio_s / self.wall_s),
            "requests_per_s": _round(len(self.timings) / self.wall_s),
            "ttfa_p50_ms": _round(percentile(firsts, 50)),
            "ttfa_p95_ms": _round(percentile(firsts, 95)),
            "ttfa_p99_ms": _round(percentile(firsts, 99)),
            "itl_p50_ms": _round(percentile(gaps, 50)),
            "itl_p95_ms": _round(percentile(gaps, 95)),
            "itl_p99_ms": _round(percentile(gaps, 99)),
            "rtf_p50": _round(percentile(rtfs, 50)),
            "underruns": _sum(timing.underruns for timing in self.timings),
            "starved_s": _round(_sum(timing.starved_s for timing in self.timings)),
            "audio_s": _round(audio_s),
            "wall_s": _round(self.wall_s),
            "load": self.load,
        }


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that at least `percent` % do not exceed (nearest rank); None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _round(value: float | None) -> float | None:
    """Three digits behind the point below 100, one above."""
    if value is None:
        return None
    return round(value, 3 if abs(value) < 100 else 1)

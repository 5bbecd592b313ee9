"""Knows how the latest requests ended: raw audio has no place to say so, so its callers may ask later."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

_MOST = 1024


class Outcomes:
    """The outcomes of the latest 1024 requests, each for at most `max_age_s` seconds.

    They are told to the `owner` (the name of a key) only: an id that a client chose can be guessed.
    """

    def __init__(self, max_age_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_age_s = max_age_s
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], tuple[float, dict[str, Any]]] = OrderedDict()

    def put(self, owner: str, request_id: str, **outcome: Any) -> None:
        """Remember how a request stands, in place of what was known of it."""
        self._kept.pop((owner, request_id), None)
        self._kept[owner, request_id] = (self._clock(), outcome)
        while self._kept and (len(self._kept) > _MOST or self._is_old(next(iter(self._kept)))):
            self._kept.popitem(last=False)

    def get(self, owner: str, request_id: str) -> dict[str, Any] | None:
        """What is known of a request; None if nothing is, or no longer."""
        place = (owner, request_id)
        if place not in self._kept or self._is_old(place):
            return None
        return {"id": request_id, "object": "audio.speech.outcome", **self._kept[place][1]}

    def _is_old(self, place: tuple[str, str]) -> bool:
        return self._clock() - self._kept[place][0] > self._max_age_s

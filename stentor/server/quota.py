"""Knows what one caller may still have: requests and characters a minute, and requests at a time."""

import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from stentor.errors import RateLimitedError
from stentor.server.keys import Key

if TYPE_CHECKING:
    from stentor.pipeline.stream import AudioStream

_MINUTE_S = 60.0


class Budget:
    """An allowance that fills up by `per_minute` each minute, up to that much; 0 is no limit.

    Whoever finds something in it may go on, whatever it costs; what it costs too much is waited for
    afterwards. So no single request is too large to be ever served, and the rate holds all the same.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._filled_s = clock()

    def wait_s(self) -> float:
        """Seconds until there is something; 0 if there is."""
        if not self.per_minute:
            return 0.0
        now_s = self._clock()
        gained = (now_s - self._filled_s) * self.per_minute / _MINUTE_S
        self._level = min(float(self.per_minute), self._level + gained)
        self._filled_s = now_s
        # Less than one is nothing yet.
        return max(0.0, (1.0 - self._level) * _MINUTE_S / self.per_minute)

    def take(self, amount: int) -> None:
        """Spend; `wait_s` came just before."""
        self._level -= amount


class Quota:
    """What the owner of one key may still have."""

    def __init__(self, key: Key, clock: Callable[[], float] = time.monotonic) -> None:
        self.key = key
        self._requests = Budget(key.requests_per_minute, clock)
        self._characters = Budget(key.characters_per_minute, clock)
        self._held: list[weakref.ref[AudioStream]] = []

    def check(self) -> None:
        """Raise RateLimitedError if there is nothing left."""
        limit = self.key.concurrent_requests
        if limit:
            held = [each for ref in self._held if (each := ref()) is not None and not each.released]
            self._held = [weakref.ref(each) for each in held]
            # Of a long text ID two parts, ID/1 and ID/2 and so on, are under way at a time.
            if len({each.request_id.partition("/")[0] for each in held}) >= limit:
                raise RateLimitedError(
                    f"this key may have {limit} requests under way: wait for one of them to end"
                )
        for budget, what in ((self._requests, "requests"), (self._characters, "characters")):
            wait_s = budget.wait_s()
            if wait_s > 0:
                raise RateLimitedError(
                    f"this key may have {budget.per_minute} {what} a minute: try again in {wait_s:.0f} s",
                    retry_after_s=wait_s,
                )

    def take(self, characters: int, held: "AudioStream", requests: int = 1) -> None:
        """Count a request that was accepted, or (`requests` 0) a further part of one."""
        self._requests.take(requests)
        self._characters.take(characters)
        if self.key.concurrent_requests:
            self._held.append(weakref.ref(held))

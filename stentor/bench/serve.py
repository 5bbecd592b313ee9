"""How a running speech server does under load: one closed loop per concurrency, over HTTP."""

import asyncio
from collections.abc import Callable, Sequence

from stentor.bench.client import Target, check_reachable, run_level
from stentor.bench.level import Level
from stentor.bench.texts import texts


def measure(
    target: Target, concurrencies: Sequence[int], requests: int, progress: Callable[[str], None]
) -> list[Level]:
    """`requests` sentences per caller at each concurrency, after one request to warm up.

    Raises:
        ConfigError: the server does not answer with audio.
    """
    progress("warming up")
    check_reachable(target)
    levels = []
    for concurrency in concurrencies:
        progress(f"concurrency {concurrency}")
        levels.append(asyncio.run(run_level(target, texts(concurrency * requests), concurrency)))
    return levels

"""The one contract: a stage is a tiny engine with four verbs; only payloads cross between stages."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from stentor.errors import Failure
from stentor.request import Record


class Payload(msgspec.Struct, frozen=True, tag=True):
    """One piece of work for one request.

    `last` marks the final piece of a request; `failure` ends the request in error (and is always `last`).
    """

    request_id: str
    data: Record | None = None
    last: bool = False
    failure: Failure | None = None


class StageTimes(msgspec.Struct, frozen=True):
    """When a request came to a stage, and its first and last results left, on `time.monotonic`'s clock."""

    stage: str
    came_s: float
    first_s: float | None = None
    last_s: float | None = None


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Forget this request. Travels in-band on the links, from the head of the pipeline to its end.

    It follows every request, however that ended, and collects on its way when each stage worked on it.
    `submission` tells it from a late one of an earlier request that had the same id.
    """

    request_id: str
    times: tuple[StageTimes, ...] = ()
    submission: int = 0


class Stage(Protocol):
    """A kind of work. Called by one worker only, never from two threads at once.

    A stage that cannot serve a request hands on a payload with a `failure` for it, drops its state and
    keeps serving the others. An exception out of `add` fails that payload's request, one out of `step` is the
    stage's own defect: it fails every request that the worker holds.
    """

    def add(self, payload: Payload) -> None:
        """Take work, or the next piece of a stream; `failure` is never set.

        `payload.data` is never None and never an `Audio`, which passes every stage by.
        """

    def step(self) -> list[Payload]:
        """Do one round for whatever is ready, batched, and hand on what came out."""

    def abort(self, request_id: str) -> None:
        """Forget the request and free what it held; unknown ids are fine."""

    def has_work(self) -> bool:
        """Should `step` be called again without waiting for more input."""

    def stats(self) -> dict[str, float]:
        """Gauges for `/metrics`, by name (for example `kv_blocks_used`); may be empty."""

    def close(self) -> None:
        """Free everything; the stage is not used again."""


@dataclass(frozen=True)
class StageSpec:
    """One stage of a declared pipeline.

    `build(**options)` makes the stage inside its worker, so it must be a top-level function and its options
    picklable. Stages of one `group` share a process when workers are processes.
    """

    name: str
    build: Callable[..., Stage]
    options: dict[str, Any] = field(default_factory=dict)
    group: str = "main"

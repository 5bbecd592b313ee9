"""One chain of stages as the pipeline holds it: its workers, what waits for the first, and its load."""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from stentor.config import PipelineConfig
from stentor.errors import InternalError, StentorError, from_failure
from stentor.pipeline.launch import Launch, ProcessLaunch, ThreadLaunch
from stentor.pipeline.links import Doorbell, Item, Socket
from stentor.pipeline.remote.launch import RemoteLaunch
from stentor.pipeline.remote.messages import Remote
from stentor.stages.base import StageSpec


class Chain:
    """Used by one thread alone, but for `ready` and `stats`.

    `suffix` is what its stages and workers carry behind their names where there are several chains.
    """

    def __init__(self, specs: Sequence[StageSpec] | Remote, suffix: str, config: PipelineConfig) -> None:
        self.suffix = suffix
        self.load = 0  # Requests that came to it and have not passed it yet.
        self.queue: deque[Item] = deque()  # Waiting for a credit of the first link.
        self._specs, self._config = specs, config
        self._launch: Launch | None = None
        self._down_since: float | None = None  # Since when a worker is not ready.
        self._has_been_ready = False

    @property
    def launch(self) -> Launch:
        """Its workers, once it was started."""
        assert self._launch is not None
        return self._launch

    @property
    def ready(self) -> bool:
        """Is every worker up."""
        return self._launch is not None and self._launch.ready

    @property
    def sources(self) -> Sequence[Socket | int]:
        """What to wait on."""
        return (*self.launch.head.sockets, *self.launch.tail.sockets, *self.launch.descriptors)

    def start(self, bell: Doorbell) -> None:
        """Begin to start the workers, from a thread that outlives them; they ring the bell."""
        if isinstance(self._specs, Remote):
            self._launch = RemoteLaunch(self._specs, bell)
        elif self._config.workers == "thread":
            self._launch = ThreadLaunch(self._specs, self._config, bell)
        else:
            self._launch = ProcessLaunch(self._specs, self._config)
        self._launch.start()

    def patience_s(self) -> float | None:
        """Seconds that a worker which is not ready still has to come up; None if all are."""
        self._has_been_ready = self._has_been_ready or self.ready
        if self.ready or (self._has_been_ready and self.launch.comes_back):
            self._down_since = None
            return None
        now_s = time.monotonic()
        self._down_since = self._down_since or now_s
        return self._down_since + self._config.start_timeout_s - now_s

    def trouble(self) -> StentorError | None:
        """Why it cannot go on, if so."""
        if self.launch.failure is not None:
            return from_failure(self.launch.failure)
        patience_s = self.patience_s()
        if patience_s is None or patience_s > 0:
            return None
        limit = f"{self._config.start_timeout_s:g} s"
        advice = "allow more with STENTOR_PIPELINE_START_TIMEOUT_S"
        return InternalError(f"a worker was not ready within {limit}; {advice}")

    def feed(self) -> None:
        """Send what waits to the first stage, as far as there are credits."""
        while self.queue and self.launch.head.has_credit():
            self.launch.head.send([self.queue.popleft()])

    def stats(self) -> dict[str, dict[str, Any]]:
        """As `Launch.stats`, under names of its own; nothing before the start."""
        found = {} if self._launch is None else self._launch.stats()
        return {
            kind: {name + self.suffix: value for name, value in named.items()}
            for kind, named in found.items()
        }

    def restart(self, worker: str) -> bool:
        """Have the worker of this name start anew; False if it is none of its own.

        Raises:
            RequestError: it is not a process.
        """
        if worker not in self.stats().get("workers", ()):
            return False
        self.launch.restart(worker.removesuffix(self.suffix))
        return True

    def stop(self, timeout_s: float) -> None:
        """End the workers, if they were started; what waits is dropped."""
        self.queue.clear()
        if self._launch is not None:
            self._launch.stop(timeout_s)

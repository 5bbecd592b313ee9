"""The workers of one process: a thread for each, and a broken stage built anew."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from stentor.errors import Failure, InternalError, StentorError, to_failure
from stentor.pipeline.worker import Worker

log = logging.getLogger(__name__)


class RestartLimit:
    """Counts restarts; `allows` one more unless there were `limit` within the last minute."""

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit
        self._recent: deque[float] = deque()

    def allows(self) -> bool:
        """Count one more restart, if it is within the limit."""
        now = time.monotonic()
        while self._recent and now - self._recent[0] > 60.0:
            self._recent.popleft()
        if len(self._recent) >= self._limit:
            return False
        self._recent.append(now)
        self.count += 1
        return True


class Crew:
    """Runs workers on threads; these call `changed` when `ready`, `failure` or a gauge has changed.

    A broken stage is built anew, `restart_limit` times a minute; after that, or when the first build fails,
    the crew's `failure` is set and the worker has stopped.
    """

    def __init__(self, workers: Sequence[Worker], restart_limit: int, changed: Callable[[], None]) -> None:
        self.workers = workers
        self.failure: Failure | None = None
        self.limits = {worker.name: RestartLimit(restart_limit) for worker in workers}
        self._changed = changed
        self._built: set[str] = set()
        self._stopping = False
        # One build at a time: two threads that import the same heavy libraries wait for each other anyway.
        self._building = threading.Lock()
        for worker in workers:
            worker.on_gauges = changed
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"stentor-{worker.name}", daemon=True)
            for worker in workers
        ]

    @property
    def ready(self) -> bool:
        """Are all stages built."""
        return len(self._built) == len(self.workers) and self.failure is None

    def start(self) -> None:
        """Start every thread; returns at once."""
        for thread in self._threads:
            thread.start()

    def gauges(self) -> dict[str, dict[str, float]]:
        """Each stage's latest gauges, by its name."""
        return {worker.name: worker.gauges for worker in self.workers}

    def stop(self, timeout_s: float) -> bool:
        """Let every worker finish its step; False if one has not within the time."""
        self._stopping = True
        for worker in self.workers:
            worker.stop()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self, worker: Worker) -> None:
        try:
            if self._build(worker):
                self._changed()
                self._run(worker)
        except BaseException as error:
            defect = not isinstance(error, StentorError)
            log.error("worker %s has ended: %s", worker.name, error, exc_info=defect)
            self.failure = to_failure(error)
            self._changed()
        finally:
            worker.close()

    def _build(self, worker: Worker) -> bool:
        """Build the stage in its turn, unless there is no use for it any more."""
        with self._building:
            if self._stopping or self.failure is not None:
                return False
            try:
                worker.build()
            except BaseException as error:
                self.failure = to_failure(error)  # before it is the next one's turn
                raise
            self._built.add(worker.name)
        return True

    def _run(self, worker: Worker) -> None:
        broken_by: Exception | None = None
        while True:
            try:
                if broken_by is not None:
                    self._recover(worker, broken_by)
                return worker.run()
            except Exception as error:
                broken_by = error
            if not self.limits[worker.name].allows():
                raise InternalError(f"stage {worker.name} failed too often: {broken_by}") from broken_by
            log.error("stage %s is broken; building it anew", worker.name, exc_info=broken_by)

    def _recover(self, worker: Worker, error: Exception) -> None:
        self._built.discard(worker.name)
        self._changed()
        worker.recover(error)
        self._built.add(worker.name)
        self._changed()

"""Workers as threads or as processes: either way a running chain between a head and a tail, watched over."""

import os
import pickle
import shutil
import tempfile
import time
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

from stentor.config import PipelineConfig
from stentor.errors import ConfigError, Failure, RequestError
from stentor.pipeline.child import Segment
from stentor.pipeline.crew import Crew
from stentor.pipeline.group_process import GroupProcess
from stentor.pipeline.links import Doorbell, Receiver, Sender
from stentor.pipeline.links.arena import MAX_LINKS, create_arena
from stentor.pipeline.links.local import LocalLink
from stentor.pipeline.links.process import Exchange, ProcessReceiver, ProcessSender
from stentor.pipeline.remote.launch import RemoteLaunch
from stentor.pipeline.worker import Worker
from stentor.stages.base import StageSpec

_LONGEST_TEMP_DIR = 70
# A thread's step or build under heavy load; one that takes longer hangs, and is left to itself.
_LONGEST_STEP_S = 60.0


class ThreadLaunch:
    """One thread per stage, in this process."""

    comes_back = False  # Once it is not ready for too long it never will be.

    def __init__(self, specs: Sequence[StageSpec], config: PipelineConfig, bell: Doorbell) -> None:
        bells = [bell, *(Doorbell() for _ in specs), bell]
        links = [LocalLink(config.link_credits, *pair) for pair in pairwise(bells)]
        self.head: Sender = links[0]
        self.tail: Receiver = links[-1]
        self.failure: Failure | None = None  # Set once the chain can not be kept running.
        self.descriptors: Sequence[int] = ()  # Nothing to wait on: the crew rings the bell.
        self._links = dict(zip([*(spec.name for spec in specs), "out"], links, strict=True))
        workers = [Worker(*parts) for parts in zip(specs, links[:-1], links[1:], bells[1:-1], strict=True)]
        self._crew = Crew(workers, config.restart_limit, bell.ring)

    @property
    def ready(self) -> bool:
        """Is every worker up."""
        return self._crew.ready

    def start(self) -> None:
        """Begin to start the workers; returns at once."""
        self._crew.start()

    def supervise(self) -> bool:
        """Note a failure. The crew repairs its stages by itself, and forgets nothing: False."""
        self.failure = self._crew.failure
        return False

    def stats(self) -> dict[str, Any]:
        """Gauges by stage; messages under way by the stage they go to; pid, restarts, readiness by worker."""
        pid, ready = os.getpid(), self.ready
        return {
            "stages": self._crew.gauges(),
            "links": {name: link.under_way for name, link in self._links.items()},
            "workers": {
                name: {"pid": pid, "restarts": limit.count, "ready": ready}
                for name, limit in self._crew.limits.items()
            },
        }

    def restart(self, worker: str) -> None:
        """A thread cannot be ended from outside. Raises RequestError."""
        raise RequestError(f"worker {worker!r} is a thread: only `--workers process` can be restarted")

    def stop(self, timeout_s: float) -> None:
        """End the workers. A step or a build is waited for, within reason.

        A thread that is inside C++ when the interpreter ends brings the process down (`terminate called`).
        """
        self._crew.stop(max(timeout_s, _LONGEST_STEP_S))


class ProcessLaunch:
    """One process per group of stages; links join the runs of consecutive stages of one group."""

    comes_back = False

    def __init__(self, specs: Sequence[StageSpec], config: PipelineConfig) -> None:
        runs = [tuple(run) for _, run in groupby(specs, key=lambda spec: spec.group)]
        if len(runs) >= MAX_LINKS:
            raise ConfigError(f"{len(runs)} runs of stages are too many; put neighbours into one group")
        self.failure: Failure | None = None  # Set once the chain can not be kept running.
        self._link_names = [*(run[0].name for run in runs), "out"]
        segments = _pickled_segments(runs)
        # Only this user may enter the folder that mkdtemp makes. A socket's path has no room for a long one.
        parent = "/tmp" if len(tempfile.gettempdir()) > _LONGEST_TEMP_DIR else None
        folder = tempfile.mkdtemp(prefix="stentor-", dir=parent)
        self._exchange = Exchange(folder, create_arena(len(runs) + 1), config.link_credits)
        self._groups = [GroupProcess(name, part, self._exchange, config) for name, part in segments.items()]
        self._has_been_ready = False
        self.head: Sender = ProcessSender(self._exchange, 0)
        self.tail: Receiver = ProcessReceiver(self._exchange, len(runs))

    @property
    def ready(self) -> bool:
        """Is every worker up."""
        return all(group.ready for group in self._groups)

    @property
    def descriptors(self) -> list[int]:
        """What to wait on, so that `supervise` is called in time."""
        return [group.descriptor for group in self._groups]

    def start(self) -> None:
        """Begin to start the processes, all at once; returns at once."""
        for group in self._groups:
            group.start()

    def supervise(self) -> bool:
        """Bury dead processes and start them again, within their limits; True if there was one."""
        restarted = False
        self._has_been_ready = self._has_been_ready or self.ready
        for group in self._groups:
            death = group.watch()
            if death is None:
                continue
            restarted = self._has_been_ready and group.limit.allows()
            if not restarted:
                self.failure = death
                break
            group.start()
        return restarted

    def stats(self) -> dict[str, Any]:
        """Gauges by stage; messages under way by the stage they go to; pid, restarts, readiness by worker."""
        arena = self._exchange.arena
        return {
            "stages": {name: gauges for group in self._groups for name, gauges in group.gauges.items()},
            "links": {name: arena.under_way(link) for link, name in enumerate(self._link_names)},
            "workers": {group.name: group.stats() for group in self._groups},
        }

    def restart(self, worker: str) -> None:
        """Tell a process to end; `supervise` starts it again."""
        for group in self._groups:
            if group.name == worker:
                group.terminate()

    def stop(self, timeout_s: float) -> None:
        """Ask all processes to end, kill those that do not within the time, and remove every trace."""
        deadline = time.monotonic() + timeout_s
        for group in self._groups:
            group.ask_to_stop()
        for group in self._groups:
            group.end(max(0.0, deadline - time.monotonic()))
        self.head.close()
        self.tail.close()
        self._exchange.context.destroy(linger=0)
        self._exchange.arena.close()
        shutil.rmtree(self._exchange.folder, ignore_errors=True)


def _pickled_segments(runs: Sequence[tuple[StageSpec, ...]]) -> dict[str, bytes]:
    """The segments of each group, ready to be sent to its process."""
    segments: dict[str, tuple[Segment, ...]] = {}
    for link, run in enumerate(runs):
        segments[run[0].group] = (*segments.get(run[0].group, ()), Segment(link, run))
    try:
        if any(spec.build.__module__ == "__main__" for run in runs for spec in run):
            raise TypeError("a worker process does not run the main program, so it cannot find its functions")
        return {name: pickle.dumps(parts) for name, parts in segments.items()}
    except Exception as error:
        raise ConfigError(
            "the stages cannot be sent to processes: each build must be a top-level function of a module, "
            f"and its options picklable ({error})"
        ) from None


Launch = ThreadLaunch | ProcessLaunch | RemoteLaunch

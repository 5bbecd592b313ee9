"""A worker process from the outside: started, watched, buried and started again."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection

from stentor import logs
from stentor.config import PipelineConfig
from stentor.errors import Failure, InternalError, to_failure
from stentor.pipeline.child import STOP, Assignment, Report
from stentor.pipeline.crew import RestartLimit
from stentor.pipeline.links.process import Exchange

# The search path travels along, so that the child finds whatever the parent can import.
_BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; from stentor.pipeline.child import main; main(int(sys.argv[1]))"
)
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

log = logging.getLogger(__name__)


class GroupProcess:
    """The process of one group, through all its lives; `segments` is a pickled tuple of Segment."""

    def __init__(self, name: str, segments: bytes, exchange: Exchange, config: PipelineConfig) -> None:
        self.name = name
        self.ready = False
        self.gauges: dict[str, dict[str, float]] = {}
        self.limit = RestartLimit(config.restart_limit)
        self._segments, self._exchange = segments, exchange
        self._threads = config.threads_per_worker
        self._incarnation = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._crash: Failure | None = None

    @property
    def descriptor(self) -> int:
        """Readable when there is a report, or the process has ended; -1 while there is no process."""
        return -1 if self._connection is None else self._connection.fileno()

    def start(self) -> None:
        """Start the next life, from a thread that outlives it: the kernel ends it with that thread."""
        self._incarnation += 1
        self._crash = None
        arena = self._exchange.arena
        variables = {name: str(self._threads) for name in _THREAD_SETTINGS} | {"OMP_WAIT_POLICY": "PASSIVE"}
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=2,  # Our stdout is for data; whatever a library prints belongs to the log.
                env=os.environ | variables,
                pass_fds=(theirs.fileno(), arena.descriptor),
            )
        assignment = Assignment(
            group=self.name,
            incarnation=self._incarnation,
            segments=self._segments,
            folder=self._exchange.folder,
            arena=(arena.descriptor, arena.num_links),
            credits=self._exchange.credits,
            parent_pid=os.getpid(),
            log_level=logging.getLogger().getEffectiveLevel(),
            log_format=logs.current_format(),
        )
        with contextlib.suppress(OSError):  # It has ended already; `watch` will find out.
            self._connection.send(assignment)

    def watch(self) -> Failure | None:
        """Read what it reports; once it has ended, bury it and say of what it died."""
        assert self._connection is not None, "only a started process can be watched"
        try:
            while self._connection.poll():
                report: Report = self._connection.recv()
                if isinstance(report, Failure):
                    self._crash = report
                else:
                    self.gauges, self.ready = report, True
        except (EOFError, OSError):
            code = self.end(0.0)
            log.warning("worker process %s has ended with code %d", self.name, code)
            return self._crash or to_failure(InternalError(f"process {self.name} has ended with code {code}"))
        return None

    def terminate(self) -> None:
        """Have it end as if it had died; may be called from any thread."""
        process = self._process
        if process is not None:
            process.terminate()

    def ask_to_stop(self) -> None:
        """Tell it to finish its step and end."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send_bytes(STOP)

    def end(self, timeout_s: float) -> int:
        """Wait for its end, kill it after the time, and reap it; returns its exit code."""
        if self._process is None or self._connection is None:
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self._process.kill()
        code = self._process.wait()
        self._connection.close()
        self._process = self._connection = None
        self.ready = False
        self.gauges = {}
        return code

    def stats(self) -> dict[str, float]:
        """Process id (0: none now), restarts and readiness."""
        process = self._process
        return {
            "pid": 0 if process is None else process.pid,
            "restarts": self.limit.count,
            "ready": self.ready,
        }

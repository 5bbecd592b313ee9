"""A worker process from the inside: builds and runs its stages, reports to the parent, never outlives it."""

import contextlib
import ctypes
import logging
import os
import pickle
import shutil
import signal
import sys
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import NoReturn

from stentor import logs
from stentor.errors import Failure, to_failure
from stentor.pipeline.crew import Crew
from stentor.pipeline.links import Doorbell, Receiver, Sender
from stentor.pipeline.links.arena import Arena
from stentor.pipeline.links.local import LocalLink
from stentor.pipeline.links.process import Exchange, ProcessReceiver, ProcessSender
from stentor.pipeline.worker import Worker
from stentor.stages.base import StageSpec

STOP = b"stop"
_FINISH_STEP_S = 1.0
_PARENT_ENDS_S = 1.0
_PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segment:
    """Consecutive stages of one group: reads link number `link`, writes the next one."""

    link: int
    specs: tuple[StageSpec, ...]


@dataclass(frozen=True)
class Assignment:
    """All that a worker process is told, at its start."""

    group: str
    incarnation: int
    segments: bytes  # A pickled tuple of Segment.
    folder: str
    arena: tuple[int, int]  # Its descriptor and number of links.
    credits: int
    parent_pid: int
    log_level: int
    log_format: str


# A stage could not be built, or is beyond repair, and the process ends; or every stage is built: the latest
# gauges of each, by its name.
Report = Failure | dict[str, dict[str, float]]


def main(descriptor: int) -> NoReturn:
    """The whole life of a worker process; `descriptor` is its end of the socket to the parent."""
    # A terminal's Ctrl-C reaches the whole process group; when to end is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    assignment: Assignment | None = None
    code = 1
    try:
        assignment = connection.recv()
        assert isinstance(assignment, Assignment)
        logs.setup(assignment.log_level, assignment.log_format, assignment.group)
        code = _serve(connection, assignment)
    except (EOFError, ConnectionError):
        log.warning("the parent process is gone")
        if assignment is not None:
            shutil.rmtree(assignment.folder, ignore_errors=True)  # Nobody else is left to do it.
    except Exception as error:
        log.exception("the worker process fails")
        with contextlib.suppress(ConnectionError):
            connection.send(to_failure(error))
    finally:
        # Without the interpreter's own clean-up: daemon threads may still be inside a step.
        sys.stderr.flush()
        os._exit(code)


def _serve(connection: Connection, assignment: Assignment) -> int:
    """Run the workers until the parent says stop or is gone, or a stage is broken; returns the exit code."""
    bell = Doorbell()
    crew = Crew(_workers(assignment), restart_limit=0, changed=bell.ring)
    terminated = False

    def terminate(*_: object) -> None:
        nonlocal terminated
        terminated = True
        bell.ring()

    signal.signal(signal.SIGTERM, terminate)
    _die_with(assignment.parent_pid)
    crew.start()
    reported: dict[str, dict[str, float]] | None = None
    try:
        while not (terminated or connection.poll()):
            if crew.failure is not None:
                connection.send(crew.failure)
                return 1
            if crew.ready and reported != crew.gauges():
                reported = crew.gauges()
                connection.send(reported)
            bell.wait((connection.fileno(),))
    finally:
        crew.stop(_FINISH_STEP_S)
    # A parent that lives has said stop; of one that dies, the thread's end may come before the socket's.
    if connection.poll(_PARENT_ENDS_S):
        connection.recv_bytes()
    return 0


def _workers(assignment: Assignment) -> list[Worker]:
    arena = Arena(*assignment.arena)
    arena.close()
    exchange = Exchange(assignment.folder, arena, assignment.credits, assignment.incarnation)
    workers: list[Worker] = []
    for segment in pickle.loads(assignment.segments):
        bells = [Doorbell() for _ in segment.specs]
        between = [LocalLink(assignment.credits, *pair) for pair in pairwise(bells)]
        inboxes: list[Receiver] = [ProcessReceiver(exchange, segment.link), *between]
        outboxes: list[Sender] = [*between, ProcessSender(exchange, segment.link + 1)]
        workers += (Worker(*parts) for parts in zip(segment.specs, inboxes, outboxes, bells, strict=True))
    return workers


def _die_with(parent_pid: int) -> None:
    """End when the parent does, even if something else keeps its end of the socket open (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent_pid:
            raise EOFError

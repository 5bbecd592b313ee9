"""Runs a declared chain of stages: takes requests, hands out their audio, ends each of them exactly once."""

import atexit
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, cast

from stentor.config import Config, PipelineConfig, check
from stentor.errors import (
    AbortedError,
    ConfigError,
    InternalError,
    NotFoundError,
    OverloadedError,
    RequestError,
    StentorError,
    from_failure,
    to_failure,
)
from stentor.pipeline.launch import Launch, ProcessLaunch, ThreadLaunch
from stentor.pipeline.links import Doorbell, Item
from stentor.pipeline.stream import AudioStream
from stentor.request import Audio, SpeechRequest
from stentor.stages.base import Abort, Payload, StageSpec, StageTimes

_STOP_S = 3.0
_MESSAGES_PER_TURN = 64

OnPassed = Callable[[str, Sequence[StageTimes]], None]

log = logging.getLogger(__name__)


@dataclass
class _Entry:
    """A request in the house: until its reader is done with it and its Abort has passed the whole chain."""

    request_id: str
    submission: int
    stream: "weakref.ref[AudioStream] | None" = None  # Only the reader keeps a stream alive.
    released: bool = False  # The reader is done; the place is free.
    closing: bool = False  # Its Abort is on its way.
    drained: bool = False  # Its Abort has come out at the end: no stage knows it any more.

    @property
    def abort(self) -> Abort:
        return Abort(self.request_id, submission=self.submission)


class Pipeline:
    """A chain of stages behind one door. Thread-safe.

    Every request, however it ended, is followed through the chain by an Abort, so that nobody between head
    and tail has to guess when it may be forgotten.
    """

    def __init__(self, specs: Sequence[StageSpec], config: PipelineConfig) -> None:
        _check(specs, config)
        self._specs, self._config = tuple(specs), config
        self._bell = Doorbell()
        self._launch: Launch | None = None
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._num_open = 0
        self._submissions = count()
        # From any thread for the pipeline's own: new requests, and entries whose reader is done.
        self._arrivals: deque[Payload | _Entry] = deque()
        self._queue: deque[Item] = deque()  # Waiting for a credit of the first link.
        self._up = threading.Event()  # Started, or failed to.
        self._stopping = False
        self._down_since: float | None = None  # Since when a worker is not ready.
        self._end: StentorError | None = InternalError("the pipeline is not started; call start()")
        self._on_passed: list[OnPassed] = []
        self._thread = threading.Thread(target=self._run, name="stentor-pipeline", daemon=True)

    def start(self) -> None:
        """Start all workers and wait until every stage is built. Raises what a build raised."""
        self._thread.start()
        atexit.register(self.close)
        try:
            self._up.wait()
        except BaseException:
            self.close()
            raise
        if self._end is not None:
            self.close()
            raise self._end

    def submit(self, request: SpeechRequest, *, continues: bool = False) -> AudioStream:
        """Put the request on its way; never waits.

        `continues` is for the next part of what has its place already (`Passage`): it is let in where
        another would be refused, so that nothing breaks off in the middle.

        Raises:
            OverloadedError: all `max_requests` places are taken.
            RequestError: a request of this id is still in the house.
            InternalError: the pipeline is closed, not started or broken.
        """
        with self._lock:
            if self._end is not None:
                raise InternalError(f"the pipeline does not serve: {self._end}")
            if request.request_id in self._entries:
                message = f"request {request.request_id!r} is still being served; give each an id of its own"
                raise RequestError(message, param="request_id")
            limit = self._config.max_requests
            # Requests on their way out hold no place, but are bounded, too; and so are those that go on.
            full = self._num_open >= limit or len(self._entries) >= 2 * limit
            if len(self._entries) >= 4 * limit or (full and not continues):
                raise OverloadedError(f"all {limit} places are taken; try again later")
            entry = _Entry(request.request_id, next(self._submissions))
            stream = AudioStream(
                request.request_id, partial(self._release, entry), partial(self._dismiss, entry)
            )
            entry.stream = weakref.ref(stream)
            self._num_open += 1
            self._entries[request.request_id] = entry
            self._arrivals.append(Payload(request.request_id, request))
        self._bell.ring()
        return stream

    def ready(self) -> bool:
        """Is every worker up, so that a request is served at once."""
        return self._end is None and self._launch is not None and self._launch.ready

    def alive(self) -> bool:
        """Does it serve, if not now then as soon as a worker is up again; False before and after that."""
        return self._end is None

    def stats(self) -> dict[str, Any]:
        """What `/metrics` and the curious want to know.

        `requests`: open (holding a place), ending (no longer, but not yet forgotten by every stage), waiting
        (for the first stage). `stages`: gauges by stage; `links`: messages under way, by the stage they go
        to; `workers`: pid, restarts and readiness by worker; these three are empty before the start.
        """
        launch = self._launch
        with self._lock:
            requests = {
                "open": self._num_open,
                "ending": len(self._entries) - self._num_open,
                "waiting": len(self._queue) + len(self._arrivals),
            }
        of_workers = {"stages": {}, "links": {}, "workers": {}} if launch is None else launch.stats()
        return {"requests": requests, **of_workers}

    def when_passed(self, call: OnPassed) -> None:
        """Have `call(request_id, times)` called, on the pipeline's thread, when a request has passed."""
        self._on_passed.append(call)

    def restart(self, worker: str) -> None:
        """Start a worker process anew; the requests that it holds fail. Returns before it is up again.

        Raises:
            RequestError: there is no such worker, or it is not a process.
        """
        launch = self._launch
        if launch is None or worker not in launch.stats()["workers"]:
            raise NotFoundError(f"there is no worker {worker[:100]!r}", param="worker")
        launch.restart(worker)

    def close(self) -> None:
        """Abort what is open and end every worker, within seconds; may be called again."""
        self._stopping = True
        self._bell.ring()
        if self._thread.ident is not None:
            self._thread.join()
        atexit.unregister(self.close)

    def _run(self) -> None:
        """The pipeline's own thread: it owns the outer ends of the chain, and the workers."""
        try:
            if self._config.workers == "thread":
                self._launch = ThreadLaunch(self._specs, self._config, self._bell)
            else:
                self._launch = ProcessLaunch(self._specs, self._config)
            self._launch.start()
            while not self._stopping:
                self._turn(self._launch)
            end: StentorError = AbortedError("the pipeline was closed")
        except StentorError as error:
            end = error
        except Exception as error:
            log.exception("the pipeline has ended")
            end = from_failure(to_failure(error))
        self._finish(end)

    def _turn(self, launch: Launch) -> None:
        self._wait(launch)
        if launch.supervise():
            self._abort_again()
        if launch.failure is not None:
            raise from_failure(launch.failure)
        if launch.ready and not self._up.is_set():
            self._end = None
            self._up.set()
        self._deliver(launch)
        self._feed(launch)

    def _wait(self, launch: Launch) -> None:
        """Sleep until there is something to do. Raises InternalError if a worker does not come up in time."""
        timeout_s = None
        if launch.ready:
            self._down_since = None
        else:
            now = time.monotonic()
            self._down_since = self._down_since or now
            timeout_s = self._down_since + self._config.start_timeout_s - now
            if timeout_s <= 0:
                limit = f"{self._config.start_timeout_s:g} s"
                advice = "allow more with STENTOR_PIPELINE_START_TIMEOUT_S"
                raise InternalError(f"a worker was not ready within {limit}; {advice}")
        self._bell.wait((*launch.head.sockets, *launch.tail.sockets, *launch.descriptors), timeout_s)
        launch.head.service()

    def _feed(self, launch: Launch) -> None:
        """Send what has arrived to the first stage, as far as there are credits."""
        while self._arrivals:
            arrival = self._arrivals.popleft()
            if isinstance(arrival, _Entry):
                self._free_place(arrival)
                self._close_request(arrival)
            else:
                self._queue.append(arrival)
        while self._queue and launch.head.ready():
            launch.head.send([self._queue.popleft()])

    def _close_request(self, entry: _Entry) -> None:
        """Send an Abort through the chain, once per request."""
        if not entry.closing:
            entry.closing = True
            self._queue.append(entry.abort)

    def _abort_again(self) -> None:
        """An Abort may have died with a worker: those on their way are sent again (twice does no harm)."""
        waiting = {item.request_id for item in self._queue if isinstance(item, Abort)}
        with self._lock:
            closing = [entry for entry in self._entries.values() if entry.closing]
        self._queue.extend(entry.abort for entry in closing if entry.request_id not in waiting)

    def _deliver(self, launch: Launch) -> None:
        """Hand out what came out of the last stage."""
        for _ in range(_MESSAGES_PER_TURN):
            items = launch.tail.receive()
            if items is None:
                return
            for item in items:
                if isinstance(item, Abort):
                    self._forget(item)
                else:
                    self._hand_out(item)
        self._bell.ring()

    def _hand_out(self, payload: Payload) -> None:
        entry = self._entries.get(payload.request_id)
        if entry is None or entry.closing:
            return
        stream = entry.stream() if entry.stream is not None else None
        if stream is not None and payload.data is not None:
            stream.put(cast(Audio, payload.data))
        if payload.last:
            self._close_request(entry)
            if stream is not None:
                stream.end(None if payload.failure is None else from_failure(payload.failure))

    def _release(self, entry: _Entry) -> None:
        """The reader is done with the request: its place is free, and every stage may forget it."""
        self._free_place(entry)
        self._dismiss(entry)

    def _dismiss(self, entry: _Entry) -> None:
        """As `_release`, a moment later and without a lock: the garbage collector may call it anywhere."""
        if self._end is None:
            self._arrivals.append(entry)
            self._bell.ring()

    def _free_place(self, entry: _Entry) -> None:
        with self._lock:
            if not entry.released:
                entry.released = True
                self._num_open -= 1
                if entry.drained:
                    del self._entries[entry.request_id]

    def _forget(self, abort: Abort) -> None:
        with self._lock:
            entry = self._entries.get(abort.request_id)
            if entry is None or entry.drained or entry.submission != abort.submission:
                return
            entry.drained = True
            if entry.released:
                del self._entries[abort.request_id]
        for on_passed in self._on_passed:
            on_passed(abort.request_id, abort.times)

    def _finish(self, end: StentorError) -> None:
        """Fail what is open, end the workers, and let nobody in any more."""
        if self._up.is_set() and not isinstance(end, AbortedError):
            end = InternalError(f"the pipeline has broken down: {end}")
        with self._lock:
            self._end = end
            entries = list(self._entries.values())
            self._entries.clear()
            self._arrivals.clear()
            self._queue.clear()
            self._num_open = 0
            for entry in entries:
                entry.released = True
        for entry in entries:
            stream = entry.stream() if entry.stream is not None else None
            if stream is not None:
                stream.end(end)
        if self._launch is not None:
            self._launch.stop(_STOP_S)
        self._up.set()


def _check(specs: Sequence[StageSpec], config: PipelineConfig) -> None:
    names = [spec.name for spec in specs]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"a pipeline needs at least one stage and each a name of its own, not {names}")
    check(Config(pipeline=config))

"""Runs chains of stages behind one door: takes requests, hands out audio, ends each of them exactly once."""

import atexit
import logging
import threading
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
from stentor.pipeline.chain import Chain
from stentor.pipeline.links import Doorbell
from stentor.pipeline.remote.messages import Remote
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
    chain: Chain | None = None  # Where it is served; None until it is on its way.
    released: bool = False  # The reader is done; the place is free.
    closing: bool = False  # Its Abort is on its way.
    drained: bool = False  # Its Abort has come out at the end: no stage knows it any more.

    @property
    def abort(self) -> Abort:
        return Abort(self.request_id, submission=self.submission)


class Pipeline:
    """Equal chains of stages behind one door, here or elsewhere: `specs`, and those `beside`. Thread-safe.

    A request goes to the chain that has fewest. However it ended, it is followed through its chain by an
    Abort, so that nobody between head and tail has to guess when it may be forgotten.
    """

    def __init__(
        self,
        specs: Sequence[StageSpec] | Remote,
        config: PipelineConfig,
        beside: Sequence[Sequence[StageSpec] | Remote] = (),
    ) -> None:
        chains = (specs, *beside)
        for each in chains:
            _check(each, config)
        self._config = config
        self._bell = Doorbell()
        self._chains = tuple(
            Chain(each, f"@{number}" if beside else "", config) for number, each in enumerate(chains)
        )
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._num_open = 0
        self._submissions = count()
        # From any thread for the pipeline's own: new requests, and entries whose reader is done.
        self._arrivals: deque[Payload | _Entry] = deque()
        self._up = threading.Event()  # Started, or failed to.
        self._stopping = False
        self._end: StentorError | None = InternalError("the pipeline is not started; call start()")
        self._on_passed: list[OnPassed] = []
        self._leaving: list[threading.Thread] = []  # Each ends a chain that was given up.
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
        """Is every worker of a chain up, so that a request is served at once."""
        return self._end is None and any(chain.ready for chain in self._chains)

    def alive(self) -> bool:
        """Does it serve, if not now then as soon as a worker is up again; False before and after that."""
        return self._end is None

    def stats(self) -> dict[str, Any]:
        """What `/metrics` and the curious want to know.

        `requests`: open (holding a place), ending (no longer, but not yet forgotten by every stage), waiting
        (for the first stage). `stages`: gauges by stage; `links`: messages under way, by the stage they go
        to; `workers`: pid, restarts and readiness by worker; these three are empty before the start. Where
        there are several chains, `@` and a chain's number stand behind the names.
        """
        chains = self._chains
        with self._lock:
            requests = {
                "open": self._num_open,
                "ending": len(self._entries) - self._num_open,
                "waiting": sum(len(chain.queue) for chain in chains) + len(self._arrivals),
            }
        found: dict[str, dict[str, Any]] = {"requests": requests, "stages": {}, "links": {}, "workers": {}}
        for chain in chains:
            for kind, named in chain.stats().items():
                found[kind] |= named
        return found

    def when_passed(self, call: OnPassed) -> None:
        """Have `call(request_id, times)` called, on the pipeline's thread, when a request has passed."""
        self._on_passed.append(call)

    def restart(self, worker: str) -> None:
        """Start a worker process anew; the requests that it holds fail. Returns before it is up again.

        Raises:
            RequestError: there is no such worker, or it is not a process.
        """
        if not any(chain.restart(worker) for chain in self._chains):
            raise NotFoundError(f"there is no worker {worker[:100]!r}", param="worker")

    def close(self) -> None:
        """Abort what is open and end every worker, within seconds; may be called again."""
        self._stopping = True
        self._bell.ring()
        if self._thread.ident is not None:
            self._thread.join()
        atexit.unregister(self.close)

    def _run(self) -> None:
        """The pipeline's own thread: it owns the outer ends of the chains, and the workers."""
        try:
            for chain in self._chains:
                chain.start(self._bell)
            while not self._stopping:
                self._turn()
            end: StentorError = AbortedError("the pipeline was closed")
        except StentorError as error:
            end = error
        except Exception as error:
            log.exception("the pipeline has ended")
            end = from_failure(to_failure(error))
        self._finish(end)

    def _turn(self) -> None:
        self._wait()
        for chain in self._chains:
            if chain.launch.supervise():
                self._abort_again(chain)
            trouble = chain.trouble()
            if trouble is not None:
                self._lose(chain, trouble)
        if not self._up.is_set() and all(chain.ready for chain in self._chains):
            self._end = None
            self._up.set()
        for chain in self._chains:
            self._deliver(chain)
        self._feed()

    def _wait(self) -> None:
        """Sleep until there is something to do, or a worker has not come up in time."""
        sources = [source for chain in self._chains for source in chain.sources]
        patience_s = [left for chain in self._chains if (left := chain.patience_s()) is not None]
        self._bell.wait(sources, min(patience_s, default=None))
        for chain in self._chains:
            chain.launch.head.service()

    def _feed(self) -> None:
        """Give what has arrived to the chains, and send what these can take to their first stages."""
        while self._arrivals:
            arrival = self._arrivals.popleft()
            if isinstance(arrival, _Entry):
                self._free_place(arrival)
                self._close_request(arrival)
                continue
            chain = min(self._chains, key=lambda each: (not each.ready, each.load))
            chain.load += 1
            self._entries[arrival.request_id].chain = chain
            chain.queue.append(arrival)
        for chain in self._chains:
            chain.feed()

    def _close_request(self, entry: _Entry) -> None:
        """Send an Abort through its chain, once per request."""
        if not entry.closing:
            entry.closing = True
            assert entry.chain is not None, "nobody is done with a request before it has arrived"
            entry.chain.queue.append(entry.abort)

    def _abort_again(self, chain: Chain) -> None:
        """An Abort may have died with a worker: those on their way are sent again (twice does no harm)."""
        waiting = {item.request_id for item in chain.queue if isinstance(item, Abort)}
        closing = [entry for entry in self._entries_of(chain) if entry.closing]
        chain.queue.extend(entry.abort for entry in closing if entry.request_id not in waiting)

    def _entries_of(self, chain: Chain) -> list[_Entry]:
        with self._lock:
            return [entry for entry in self._entries.values() if entry.chain is chain]

    def _lose(self, chain: Chain, trouble: StentorError) -> None:
        """Go on without a chain that cannot be kept running; what it held fails.

        Raises the trouble if it is the last one, or if they are still being started.
        """
        if not self._up.is_set() or len(self._chains) == 1:
            raise trouble
        log.error("chain %s is given up, the others go on: %s", chain.suffix, trouble)
        self._chains = tuple(other for other in self._chains if other is not chain)
        lost = InternalError(f"a worker died while it held this request; send it again ({trouble})")
        for entry in self._entries_of(chain):
            stream = entry.stream() if entry.stream is not None else None
            if stream is not None:
                stream.end(lost)
            entry.closing = True
            self._forget(entry.abort)
        # Its workers may be inside a step; nobody but `close` waits for that.
        self._leaving.append(threading.Thread(target=chain.stop, args=(_STOP_S,), name="stentor-lost-chain"))
        self._leaving[-1].start()

    def _deliver(self, chain: Chain) -> None:
        """Hand out what came out of the last stage."""
        for _ in range(_MESSAGES_PER_TURN):
            items = chain.launch.tail.receive()
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
            if entry.chain is not None:
                entry.chain.load -= 1
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
            self._num_open = 0
            for entry in entries:
                entry.released = True
        for entry in entries:
            stream = entry.stream() if entry.stream is not None else None
            if stream is not None:
                stream.end(end)
        for chain in self._chains:
            chain.stop(_STOP_S)
        for leaving in self._leaving:
            leaving.join()
        self._up.set()


def _check(specs: Sequence[StageSpec] | Remote, config: PipelineConfig) -> None:
    names = [specs.address] if isinstance(specs, Remote) else [spec.name for spec in specs]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"a pipeline needs at least one stage and each a name of its own, not {names}")
    check(Config(pipeline=config))

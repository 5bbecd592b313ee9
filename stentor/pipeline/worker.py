"""The loop around a stage: inbox, stage, outbox; the same for threads and processes.

It sees to it that every request ends once: nothing leaves for a request that has ended or is unknown, and
nothing enters for one that has ended or failed here, until the pipeline's Abort has passed.
"""

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from stentor.errors import Failure, InternalError, summary, to_failure
from stentor.pipeline.links import Doorbell, Item, Receiver, Sender
from stentor.request import Audio
from stentor.stages.base import Abort, Payload, Stage, StageSpec, StageTimes

STATS_INTERVAL_S = 0.25
_MESSAGES_PER_TURN = 64
_FAILED_STEPS_IN_A_ROW = 3

log = logging.getLogger(__name__)


@dataclass
class _Progress:
    """What a worker remembers of a request, from its first piece until its Abort."""

    came_s: float
    first_s: float | None = None
    last_s: float | None = None
    input_ended: bool = False
    output_ended: bool = False


class Worker:
    """Runs one stage between two links; all of it, the stage's building too, on the thread that calls."""

    def __init__(self, spec: StageSpec, inbox: Receiver, outbox: Sender, bell: Doorbell) -> None:
        self.name = spec.name
        self.gauges: dict[str, float] = {}
        self.on_gauges: Callable[[], None] = lambda: None
        self._spec = spec
        self._inbox, self._outbox, self._bell = inbox, outbox, bell
        self._stage: Stage | None = None
        self._requests: dict[str, _Progress] = {}
        self._items: deque[Item] = deque()  # Received, in order, and not yet given to the stage.
        self._results: list[Item] = []  # To be sent as one message.
        self._failed_steps = 0
        self._stats_at = 0.0
        self._stats_due = True
        self._stopping = False

    def build(self) -> None:
        """Make the stage. Raises whatever its build function raises."""
        self._stage = self._spec.build(**self._spec.options)
        self._refresh_stats(self._stage)

    def run(self) -> None:
        """Work until `stop`. Raises what broke the stage: three steps in a row, or an abort, that failed."""
        stage = self._stage
        assert stage is not None, "build comes before run"
        while not self._stopping:
            busy = self._take(stage)
            busy = self._step(stage) or busy
            self._flush()
            self._stats_due = self._stats_due or busy
            if time.monotonic() - self._stats_at >= STATS_INTERVAL_S and self._stats_due:
                self._refresh_stats(stage)
            if not busy:
                self._rest()

    def recover(self, error: Exception) -> None:
        """After `run` has raised `error`: fail the requests that the stage held and build it anew."""
        self._close_stage()
        # They hold the broken stage, whose memory the new one needs.
        traceback.clear_frames(error.__traceback__)
        for request_id in self._open_requests():
            self._end(request_id, self._defect(error))
        self._failed_steps = 0
        self.build()

    def stop(self) -> None:
        """Make `run` return after the present step; may be called from any thread."""
        self._stopping = True
        self._bell.ring()

    def close(self) -> None:
        """Free the stage and both links."""
        self._close_stage()
        self._inbox.close()
        self._outbox.close()

    def _take(self, stage: Stage) -> bool:
        """Give the stage what has arrived; True if there was something."""
        for _ in range(_MESSAGES_PER_TURN):
            items = self._inbox.receive()
            if items is None:
                break
            self._items.extend(items)
        if not self._items:
            return False
        while self._items:
            item = self._items.popleft()
            if isinstance(item, Abort):
                self._abort(stage, item)
            else:
                self._add(stage, item)
        return True

    def _abort(self, stage: Stage, abort: Abort) -> None:
        progress = self._requests.pop(abort.request_id, None)
        if progress is not None:
            times = StageTimes(self.name, progress.came_s, progress.first_s, progress.last_s)
            abort = msgspec.structs.replace(abort, times=(*abort.times, times))
        self._results.append(abort)
        if progress is not None and not progress.output_ended:
            stage.abort(abort.request_id)

    def _add(self, stage: Stage, payload: Payload) -> None:
        progress = self._requests.get(payload.request_id)
        if progress is None:
            progress = self._requests[payload.request_id] = _Progress(time.monotonic())
        if progress.input_ended or progress.output_ended:
            return
        progress.input_ended = payload.last
        if payload.failure is not None:
            self._fail(stage, payload.request_id, payload.failure)
            return
        if isinstance(payload.data, Audio):
            # What the caller waits for, already: no stage on the way has anything to do with it.
            progress.output_ended = payload.last
            self._results.append(payload)
            return
        try:
            stage.add(payload)
        except Exception as error:
            log.info("stage %s refuses request %s: %s", self.name, payload.request_id, summary(error))
            self._fail(stage, payload.request_id, to_failure(error))

    def _step(self, stage: Stage) -> bool:
        """Let the stage do a round if it has work; True if it had."""
        try:
            if not stage.has_work():
                return False
            payloads = stage.step()
        except Exception as error:
            log.exception("stage %s failed in a step", self.name)
            self._failed_steps += 1
            if self._failed_steps == _FAILED_STEPS_IN_A_ROW:
                raise
            for request_id in self._open_requests():
                self._fail(stage, request_id, self._defect(error))
            return True
        self._failed_steps = 0
        now_s = time.monotonic()
        for payload in payloads:
            progress = self._requests.get(payload.request_id)
            if progress is not None and not progress.output_ended:
                progress.first_s = progress.first_s or now_s
                progress.last_s = now_s
                progress.output_ended = payload.last
                self._results.append(payload)
        return True

    def _fail(self, stage: Stage, request_id: str, failure: Failure) -> None:
        self._end(request_id, failure)
        stage.abort(request_id)

    def _end(self, request_id: str, failure: Failure) -> None:
        self._requests[request_id].output_ended = True
        self._results.append(Payload(request_id, last=True, failure=failure))

    def _open_requests(self) -> list[str]:
        return [request_id for request_id, progress in self._requests.items() if not progress.output_ended]

    def _defect(self, error: Exception) -> Failure:
        return to_failure(InternalError(f"stage {self.name} failed: {type(error).__name__}: {error}"))

    def _flush(self) -> None:
        """Send the results as one message, waiting for a credit if need be."""
        if not self._results:
            return
        while not self._outbox.has_credit():
            if self._stopping:
                return
            self._bell.wait(self._outbox.sockets)
        self._outbox.send(self._results)
        self._results = []

    def _rest(self) -> None:
        """Sleep until something arrives or, after some work, until the gauges are to be read once more."""
        timeout_s = self._stats_at + STATS_INTERVAL_S - time.monotonic() if self._stats_due else None
        self._bell.wait((*self._inbox.sockets, *self._outbox.sockets), timeout_s)
        self._outbox.service()

    def _refresh_stats(self, stage: Stage) -> None:
        self._stats_at, self._stats_due = time.monotonic(), False
        try:
            gauges = {name: float(value) for name, value in stage.stats().items()}
        except Exception:
            log.exception("stage %s cannot tell its gauges", self.name)
            return
        gauges["requests_known"] = float(len(self._requests))
        if gauges != self.gauges:
            self.gauges = gauges
            self.on_gauges()

    def _close_stage(self) -> None:
        stage, self._stage = self._stage, None
        if stage is not None:
            try:
                stage.close()
            except Exception:
                log.exception("stage %s failed to close", self.name)

"""Knows how one order is spoken, for whatever door it came through: audio in, shaped and encoded bytes out.

Audio is shaped and encoded in threads, so that the event loop only passes bytes on, and short raw pieces.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from stentor import logs
from stentor.audio.shape import Shape, Shaper
from stentor.errors import (
    AbortedError,
    InternalError,
    OverloadedError,
    RateLimitedError,
    RequestError,
    StentorError,
    summary,
)
from stentor.pipeline.passage import Passage, Submit, speak
from stentor.request import Audio, ModelInfo
from stentor.server.admission import Admission
from stentor.server.caller import current
from stentor.server.delivery import Form
from stentor.server.errors import error_object
from stentor.server.metrics import Metrics
from stentor.server.outcomes import Outcomes
from stentor.server.protocol import Delivery, Order, Reader
from stentor.server.tracing import Tracer

if TYPE_CHECKING:
    from stentor.pipeline.stream import AudioStream

# How a request is counted that got no place, by what was raised.
_REFUSALS = (
    (RateLimitedError, "limited"),
    (OverloadedError, "overloaded"),
    (RequestError, "refused"),
    (StentorError, "error"),
)
_NO_SOUND = "the model made no sound for this text: try another seed, or other words"

# Samples that are only rounded, of at most so many seconds, are there before a thread would have woken.
_PLAIN_SHAPES = (Shape(), Shape(trim_silence=False))
_QUICK_S = 0.35

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """What every door needs: where requests go, how bodies are read, who encodes, and who remembers."""

    pipeline: Admission
    reader: Reader
    metrics: Metrics
    outcomes: Outcomes
    encoders: Executor
    info: ModelInfo
    write_timeout_s: float
    tracer: Tracer | None = None


class Utterance:
    """One order being spoken. Iterate inside `async with` for what to send, never empty; leaving it ends it.

    It is submitted when it is made, so make it where it is entered:

        async with Utterance(service, order, partial(make_form, order)) as utterance:
            async for data in utterance:
                await send(data)

    `make_form` gets the sample rate of what is heard. The request is recorded once: as done if it was
    iterated to its end and left in peace, as refused or failed by the error that it raised, else as aborted.
    Iteration raises the StentorError with which the request failed.
    """

    def __init__(
        self,
        service: Service,
        order: Order,
        make_form: Callable[[int], Form],
        stream: "AudioStream | Passage | None" = None,
        submit: Submit | None = None,
    ) -> None:
        """`stream` is given if the order was submitted before its turn had come; `submit` if not as all are.

        Raises OverloadedError if there is no place, InternalError if nothing is served.
        """
        whole = order.delivery is Delivery.FILE
        self.order = order
        self.form: Form | None = None
        self.last: Audio | None = None
        self._service = service
        self._make_form = make_form
        self._shaper = Shaper(order.shape, service.info.sample_rate_hz, whole=whole)
        self._meter = service.metrics.measure(self.sample_rate_hz, streamed=not whole)
        plain = order.format in ("pcm", "wav") and order.shape in _PLAIN_SHAPES
        self._quick_samples = _QUICK_S * service.info.sample_rate_hz if plain else 0.0
        self._complete = False
        self._aborted = False
        self._recorded = False
        self._caller = current()
        try:
            submit = submit or service.pipeline.submit
            self._stream = stream or speak(submit, order.request, service.info, service.reader.keep_voice())
        except StentorError as error:
            self._meter.end(next(word for kind, word in _REFUSALS if isinstance(error, kind)))
            raise
        service.outcomes.put(self._caller.key.name, order.id, status="in_progress")

    @property
    def sample_rate_hz(self) -> int:
        """The rate of what is heard."""
        return self._shaper.sample_rate_hz

    @property
    def audio_s(self) -> float:
        """Seconds of audio handed out so far, as they are heard."""
        return self._meter.audio_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.abort()
        if error is None:
            self._record("done" if self._complete else "aborted")
        elif isinstance(error, StentorError):
            self._record("refused" if isinstance(error, RequestError) else "error", error)
        elif isinstance(error, Exception) and not isinstance(error, ReaderGoneError):
            log.error("request %s failed", self.order.request.request_id, exc_info=error)
            self._record("error", InternalError("something in the server broke"))
        else:
            self._record("aborted")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not (self._complete or self._aborted):
            try:
                audio = await anext(self._stream, None)
            except AbortedError:
                if self._recorded:  # by `abort`
                    break
                raise
            self._complete = audio is None
            self.last = audio or self.last
            if audio is not None and len(audio.waveform) <= self._quick_samples:
                num_samples, data = self._encode(audio)
                await asyncio.sleep(0)  # Nothing else here need wait: others have their turn.
            else:
                loop = asyncio.get_running_loop()
                num_samples, data = await loop.run_in_executor(self._service.encoders, self._encode, audio)
            self._meter.heard(num_samples)
            if data and not self._aborted:
                return data
        raise StopAsyncIteration

    def abort(self) -> None:
        """Say no more: the iteration ends, and the request is recorded as aborted. For the event loop."""
        self._aborted = True
        self._stream.abort()
        self._record("aborted")

    def delivered(self) -> None:
        """Record the end now: all was sent but the mark of its end. The caller may ask for it right after."""
        self._record("done")

    def _encode(self, audio: Audio | None) -> tuple[int, bytes]:
        """The samples to be heard of the next piece, or of the end, and what to send for them."""
        if self.form is None:
            self.form = self._make_form(self.sample_rate_hz)
        if audio is not None:
            waveform = self._shaper.feed(audio.waveform)
            return len(waveform), self.form.piece(waveform) if len(waveform) else b""
        waveform = self._shaper.finish()
        if self.last is None or self._meter.audio_s + len(waveform) == 0:
            raise InternalError(_NO_SOUND)
        data = self.form.piece(waveform) if len(waveform) else b""
        return len(waveform), data + self.form.finish(self.last)

    def _record(self, outcome: str, error: StentorError | None = None) -> None:
        if self._recorded:
            return
        self._recorded = True
        last, meter, figures = self.last, self._meter, dict[str, Any]()
        if last is not None and last.finish_reason is not None:
            figures["finish_reason"] = str(last.finish_reason)
        if last is not None and last.usage is not None:
            figures["prompt_tokens"] = last.usage.prompt_tokens
            figures["completion_tokens"] = last.usage.completion_tokens
        meter.end(outcome, **figures)
        self._service.outcomes.put(
            self._caller.key.name,
            self.order.id,
            status=outcome,
            **{"finish_reason": None, **figures},
            seed=self.order.seed,
            audio_seconds=round(meter.audio_s, 3),
            seconds=round(meter.taken_s, 3),
            ttfa_seconds=_rounded(meter.ttfa_s),
            **({} if error is None else error_object(error)),
        )
        self._tell(error, figures)

    def _tell(self, error: StentorError | None, figures: dict[str, Any]) -> None:
        """The log's line of the request, and its trace; neither says what was to be spoken."""
        request_id, key, meter = self.order.request.request_id, self._caller.key.name, self._meter
        log.log(
            logging.ERROR if meter.outcome == "error" else logging.INFO,
            "request %s %s%s: %.2f s of audio in %.2f s, first after %s%s",
            request_id,
            meter.outcome,
            f" ({figures['finish_reason']})" if "finish_reason" in figures else "",
            meter.audio_s,
            meter.taken_s,
            "-" if meter.ttfa_s is None else f"{meter.ttfa_s:.3f} s",
            "" if error is None else f": {summary(error)}",
            extra=logs.fields(
                request_id=request_id,
                key=key or None,
                outcome=meter.outcome,
                **figures,
                format=self.order.format,
                streamed=meter.streamed,
                characters=len(self.order.request.text),
                audio_s=round(meter.audio_s, 3),
                seconds=round(meter.taken_s, 3),
                ttfa_s=_rounded(meter.ttfa_s),
                rtf=_rounded(meter.rtf),
                underruns=meter.clock.underruns,
            ),
        )
        if self._service.tracer is not None:
            facts = {"key": key or None, "format": self.order.format}
            parts = self._stream.num_submitted if isinstance(self._stream, Passage) else 1
            self._service.tracer.ended(request_id, meter, self._caller.trace, parts, **facts)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


class ReaderGoneError(Exception):
    """Nobody reads the answer any more."""

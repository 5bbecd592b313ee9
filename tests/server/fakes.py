"""A pipeline without a model: says a rising tone, as slowly and as badly as a test wants."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from msgspec import structs

from stentor.audio.shape import Shape
from stentor.config import Config, ReferenceConfig, override
from stentor.errors import AbortedError, OverloadedError
from stentor.request import Audio, FinishReason, ModelInfo, SamplingParams, SpeechRequest, Usage
from stentor.server.protocol import Delivery, Order
from stentor.voices import VoiceStore

RATE = 24_000
FRAME = 960
USAGE = Usage(prompt_tokens=12, completion_tokens=34)

INFO = ModelInfo(
    name="stentor-test",
    checkpoint="/nowhere",
    sample_rate_hz=RATE,
    samples_per_frame=FRAME,
    num_codebooks=8,
    codebook_size=1024,
    control_tags=("<|prosody:pause|>",),
    context_limit=4096,
    sampling=SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=2048),
)

# What a fake model does next: hand out audio, wait so many seconds, or fail.
Act = Audio | float | Exception
Script = Callable[[SpeechRequest], Iterable[Act]]


def tone(seconds: float = 1.0) -> np.ndarray:
    """Gets louder to its end, so that a lost end is seen."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    return (0.5 * (time_s / seconds) * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)


def sound(seconds: float = 0.2, **last: Any) -> Audio:
    return Audio(tone(seconds), RATE, **last)


def say(
    seconds: float = 1.0,
    *,
    chunk: int = 2 * FRAME,
    delay_s: float = 0.0,
    finish_reason: FinishReason = FinishReason.STOP,
    usage: Usage | None = USAGE,
) -> Script:
    """A script that says `tone(seconds)` in chunks, `delay_s` before each."""
    waveform = tone(seconds)

    def script(_: SpeechRequest) -> Iterator[Act]:
        for at in range(0, len(waveform), chunk):
            if delay_s:
                yield delay_s
            ends = at + chunk >= len(waveform)
            ending = {"finish_reason": finish_reason, "usage": usage} if ends else {}
            yield Audio(waveform[at : at + chunk], RATE, **ending)

    return script


def spoken_with_codes(_: SpeechRequest) -> Iterator[Act]:
    """2.4 seconds, with codes at the end."""
    yield sound(0.2)
    yield sound(2.2, finish_reason=FinishReason.STOP, codes=np.zeros((60, 8), np.uint16))


class FakeStream:
    """As the real one: iteration ends, or raises; an abort frees its place at once and ends the iteration."""

    def __init__(self, request_id: str, open: set[str]) -> None:
        self.request_id = request_id
        self.aborted = False
        self._is_open = open.__contains__
        self._release = open.discard
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Audio | Exception] = asyncio.Queue()

    @property
    def released(self) -> bool:
        return not self._is_open(self.request_id)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Audio:
        act = await self._queue.get()
        if isinstance(act, Exception):
            self._release(self.request_id)
            raise act
        return act

    def put(self, act: Audio | Exception) -> None:
        # The loop may be gone when a slow script of an ended test speaks on.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, act)

    def abort(self) -> None:
        self.aborted = True
        self._release(self.request_id)
        self._queue.put_nowait(AbortedError("the request was aborted"))


class FakePipeline:
    """Speaks by its `script`, one thread per request; `open` are the requests that hold a place."""

    def __init__(self, script: Script | None = None, max_requests: int = 64) -> None:
        self.script = script or say()
        self.max_requests = max_requests
        self.retry_after_s = 2.5
        self.is_ready = True
        self.is_alive = True
        self.on_passed: list[Callable[..., None]] = []
        self.restarted: list[str] = []
        self.requests: list[SpeechRequest] = []
        self.open: set[str] = set()
        self.aborted_early = 0

    def submit(self, request: SpeechRequest, *, continues: bool = False) -> FakeStream:
        if len(self.open) >= self.max_requests and not continues:
            raise OverloadedError("all places are taken; try again later", retry_after_s=self.retry_after_s)
        self.requests.append(request)
        self.open.add(request.request_id)
        stream = FakeStream(request.request_id, self.open)
        threading.Thread(target=self._speak, args=(request, stream), daemon=True).start()
        return stream

    def _speak(self, request: SpeechRequest, stream: FakeStream) -> None:
        for act in self.script(request):
            if stream.aborted:
                self.aborted_early += 1
                return
            if isinstance(act, float):
                time.sleep(act)
            else:
                stream.put(act)
        stream.put(StopAsyncIteration())

    def stats(self) -> dict[str, Any]:
        return {"requests": {"open": len(self.open)}, "stages": {}, "links": {}, "workers": {}}

    def ready(self) -> bool:
        return self.is_ready

    def when_passed(self, call: Callable[..., None]) -> None:
        self.on_passed.append(call)

    def restart(self, worker: str) -> None:
        self.restarted.append(worker)

    def alive(self) -> bool:
        return self.is_alive

    def wait_until(self, happened: Callable[[], bool], timeout_s: float = 5.0) -> float:
        """Wait for a change in another thread; gives the seconds that took."""
        started_s = time.monotonic()
        while not happened():
            assert time.monotonic() - started_s < timeout_s, "it did not happen in time"
            time.sleep(0.002)
        return time.monotonic() - started_s


def voices(folder: Path | None = None) -> VoiceStore:
    """Voices of INFO; a folder is its checkpoint, with the codec "c", and has the users' voices in it."""
    if folder is None:
        return VoiceStore(INFO, ReferenceConfig())
    info = structs.replace(INFO, checkpoint=str(folder), codec="c")
    return VoiceStore(info, ReferenceConfig(voices_folder=str(folder / "voices")))


def order(
    request: SpeechRequest | None = None,
    *,
    delivery: Delivery = Delivery.RAW,
    format: str = "pcm",
    **shape: Any,
) -> Order:
    request = request or SpeechRequest("id-1.0", "Hello.", stream=delivery is not Delivery.FILE)
    return Order("id-1", request, Shape(**shape), format, delivery, seed=7)


def config(access: dict[str, Any] | None = None, **server: Any) -> Config:
    return override(Config(), {"server": server, "access": access or {}})

"""The first stage: requests become prompts, and the recordings that they name become waveforms."""

from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

from msgspec import structs

from stentor.audio.enroll import READ_AHEAD, enroll
from stentor.audio.fetch import ReferenceReader, is_url
from stentor.audio.load import decode, is_silent
from stentor.config import ReferenceConfig
from stentor.errors import RequestError, to_failure
from stentor.request import Array, Prompt, Reference, SpeechRequest
from stentor.stages.base import Payload
from stentor.stages.transcribe import Recogniser, Transcriber

# Recordings that are read and decoded at once.
_READERS = 8
# A slow address holds one of these until its time is up, and no reader: only where so many are slow does
# another address wait. There are as many as requests in a house of the usual size.
_FETCHERS = 64
# How long a step waits for a recording when there is nothing else to do; bounds the delay of a new request.
_PATIENCE_S = 0.005
# There is no voice to hear in less.
_SHORTEST_REFERENCE_S = 0.5


class Preprocessor(Protocol):
    """A model's way to read a request."""

    def prepare(self, request: SpeechRequest, waveform: Array | None) -> Prompt:
        """Make the prompt; `waveform` is the reference, mono float32 [num_samples] at the model's rate.

        Raises:
            RequestError: the model cannot serve this request.
        """


class PreprocessStage:
    """SpeechRequest in, Prompt out. Recordings are read in threads: a slow one delays only its own request.

    `sample_rate_hz` is the model's rate. What a recording says that comes without its words is heard by the
    `recogniser`, if there is one.
    """

    def __init__(
        self,
        preprocessor: Preprocessor,
        reader: ReferenceReader,
        sample_rate_hz: int,
        config: ReferenceConfig,
        recogniser: Recogniser | None = None,
    ) -> None:
        self._preprocessor = preprocessor
        self._reader = reader
        self._sample_rate_hz = sample_rate_hz
        self._config = config
        self._transcriber = Transcriber(recogniser, sample_rate_hz)
        self._ready: deque[SpeechRequest] = deque()
        self._loading: dict[str, tuple[SpeechRequest, Future[Array]]] = {}
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="reference")
        self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="address")

    def add(self, payload: Payload) -> None:
        """Take a request, and start reading its recording. Raises RequestError for a voice of nothing."""
        request = payload.data
        assert isinstance(request, SpeechRequest)
        if request.enroll and request.reference is None:
            raise RequestError("a voice needs a recording, or codes", param="audio_sample")
        if request.reference is None or request.reference.audio is None:
            self._ready.append(request)
            return
        audio = request.reference.audio
        threads, load = (self._fetchers, self._fetch) if is_url(audio) else (self._readers, self._load)
        self._loading[request.request_id] = (request, threads.submit(load, audio, request))

    def step(self) -> list[Payload]:
        """Prompts of all requests whose recordings, if any, have been read."""
        payloads = [self._prepare(request, None) for request in self._ready]
        self._ready.clear()
        under_way: list[Future[Any]] = [loading for _, loading in self._loading.values()]
        under_way += self._transcriber.under_way
        if not payloads and under_way:
            wait(under_way, _PATIENCE_S, FIRST_COMPLETED)
        for request, loading in [entry for entry in self._loading.values() if entry[1].done()]:
            del self._loading[request.request_id]
            payload = self._prepare(request, loading)
            # What is wrong with it is told before anybody listens.
            if payload.failure is None and self._transcriber.wants(request):
                self._transcriber.add(request, loading)
            else:
                payloads.append(payload)
        payloads += [self._prepare(request, loading) for request, loading in self._transcriber.step()]
        return payloads

    def abort(self, request_id: str) -> None:
        """Forget the request; a recording under way is read to its end or limit and thrown away."""
        self._transcriber.abort(request_id)
        self._ready = deque(request for request in self._ready if request.request_id != request_id)
        _, loading = self._loading.pop(request_id, (None, None))
        if loading is not None:
            loading.cancel()

    def has_work(self) -> bool:
        """Is any request waiting for its prompt."""
        return bool(self._ready or self._loading) or self._transcriber.has_work()

    def stats(self) -> dict[str, float]:
        """How many recordings are being read, and how the transcriber does."""
        return {"references_loading": len(self._loading), **self._transcriber.stats()}

    def close(self) -> None:
        """Stop reading, and transcribing."""
        self._transcriber.close()
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, request: SpeechRequest, loading: "Future[Array] | None") -> Payload:
        try:
            waveform = loading.result() if loading is not None else None
            prompt = self._preprocessor.prepare(request, waveform)
        except Exception as error:  # whatever it is, it is this request's, not the stage's
            return Payload(request.request_id, last=True, failure=to_failure(error))
        # The recording has done its service and need not travel from stage to stage; a voice keeps its words.
        words = Reference(text=request.reference.text) if request.reference and request.enroll else None
        lighter = structs.replace(prompt, request=structs.replace(request, reference=words))
        return Payload(request.request_id, lighter, last=True)

    def _fetch(self, url: str | bytes, request: SpeechRequest) -> Array:
        return self._readers.submit(self._load, self._reader.read(url), request).result()

    def _load(self, audio: str | bytes, request: SpeechRequest) -> Array:
        data, limit_s = self._reader.read(audio), self._config.max_seconds
        if request.enroll:
            assert request.reference is not None, "there is audio"
            return enroll(
                decode(data, sample_rate_hz=self._sample_rate_hz, max_seconds=limit_s * READ_AHEAD, cut=True),
                self._sample_rate_hz,
                limit_s,
                whole=bool((request.reference.text or "").strip()),
            )
        waveform = decode(data, sample_rate_hz=self._sample_rate_hz, max_seconds=limit_s)
        seconds = len(waveform) / self._sample_rate_hz
        if seconds < _SHORTEST_REFERENCE_S:
            raise RequestError(
                f"the reference lasts {seconds:.2f} s: give at least {_SHORTEST_REFERENCE_S} s of speech, "
                "better 3 s",
                param="references",
            )
        if is_silent(waveform):
            raise RequestError("the reference is silent: give a recording of speech", param="references")
        return waveform

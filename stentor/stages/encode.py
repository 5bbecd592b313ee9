"""The stage that turns reference recordings into codes, once for each recording."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from stentor.errors import RequestError, StentorError, to_failure
from stentor.request import Array, Audio, Prompt
from stentor.stages.base import Payload

# Recordings of equal padded length that are encoded together, at most; more would only cost memory.
_MAX_BATCH = 8


class ReferenceEncoder(Protocol):
    """What a model supplies: recordings to codes."""

    def encode(self, waveforms: Sequence[Array]) -> list[Array]:
        """Mono float32 [samples], all of one padded length, to integers [frames, codebooks] each."""


class _Waiting(NamedTuple):
    prompt: Prompt
    waveform: Array
    key: bytes


class EncodeStage:
    """A `Stage`: Prompt in, Prompt out, with `reference_codes` in the place of `reference_waveform`.

    A request to enroll ends here: its reference goes out as `Audio`, at `sample_rate_hz` and with its codes.
    Prompts without a recording pass straight on, ahead of those that must be encoded. The encoder is made
    when the first recording comes; it lengthens a recording of so many samples to `padded_length` of them.
    Codes are kept by the recording's content, up to `cache_bytes`.
    """

    def __init__(
        self,
        make_encoder: Callable[[], ReferenceEncoder],
        cache_bytes: int,
        sample_rate_hz: int = 24_000,
        padded_length: Callable[[int], int] = int,
    ) -> None:
        self._make_encoder = make_encoder
        self._padded_length = padded_length
        self._sample_rate_hz = sample_rate_hz
        self._encoder: ReferenceEncoder | None = None
        self._cache = _CodesCache(cache_bytes)
        self._ready: list[Payload] = []
        self._waiting: dict[str, _Waiting] = {}

    def add(self, payload: Payload) -> None:
        """Queue a prompt. Raises RequestError if its recording is no mono signal of finite numbers."""
        prompt = payload.data
        assert isinstance(prompt, Prompt)
        waveform = prompt.reference_waveform
        if waveform is None:
            self._ready.append(self._done(payload.request_id, prompt, prompt.reference_codes))
            return
        _check(waveform)
        key = content_key(waveform)
        codes = self._cache.get(key)
        if codes is None:
            self._waiting[payload.request_id] = _Waiting(prompt, waveform, key)
        else:
            self._ready.append(self._done(payload.request_id, prompt, codes))

    def step(self) -> list[Payload]:
        """Hand on what needs no encoding; if there is nothing of the kind, encode one batch."""
        if self._ready:
            ready, self._ready = self._ready, []
            return ready
        batch = self._take_batch()
        recordings = {waiting.key: waiting.waveform for waiting in batch.values()}
        try:
            if self._encoder is None:
                self._encoder = self._make_encoder()
            encoded = dict(zip(recordings, self._encoder.encode(list(recordings.values())), strict=True))
        except StentorError as error:
            failure = to_failure(error)
            return [Payload(request_id, last=True, failure=failure) for request_id in batch]
        for key, codes in encoded.items():
            self._cache.put(key, codes)
        return [self._done(name, waiting.prompt, encoded[waiting.key]) for name, waiting in batch.items()]

    def abort(self, request_id: str) -> None:
        self._waiting.pop(request_id, None)
        self._ready = [payload for payload in self._ready if payload.request_id != request_id]

    def has_work(self) -> bool:
        return bool(self._ready or self._waiting)

    def stats(self) -> dict[str, float]:
        """Prompts waiting for the encoder, and how the cache does."""
        return {
            "references_waiting": len(self._waiting),
            "reference_cache_bytes": self._cache.size_bytes,
            "reference_cache_hits": self._cache.hits,
            "reference_cache_misses": self._cache.misses,
        }

    def close(self) -> None:
        self._encoder = None
        self._ready.clear()
        self._waiting.clear()
        self._cache = _CodesCache(0)

    def _done(self, request_id: str, prompt: Prompt, codes: Array | None) -> Payload:
        """What goes on: the prompt with its codes, if it has a reference, or that reference itself."""
        data: Prompt | Audio
        if prompt.request.enroll:
            waveform, reference = prompt.reference_waveform, prompt.request.reference
            assert reference is not None, "what is enrolled"
            sound = np.zeros(0, np.float32) if waveform is None else waveform
            data = Audio(sound, self._sample_rate_hz, codes=codes, transcript=reference.text)
        else:
            data = msgspec.structs.replace(prompt, reference_codes=codes, reference_waveform=None)
        return Payload(request_id, data, last=True)

    def _take_batch(self) -> dict[str, _Waiting]:
        """The oldest waiting prompt and others whose recordings become as long, in order of arrival.

        Others wait: more padding than a recording gets alone would change its codes.
        """
        length = self._padded_length(len(next(iter(self._waiting.values())).waveform))
        chosen: dict[str, _Waiting] = {}
        keys: set[bytes] = set()
        for request_id, waiting in self._waiting.items():
            fits = self._padded_length(len(waiting.waveform)) == length
            if fits and (waiting.key in keys or len(keys) < _MAX_BATCH):
                chosen[request_id] = waiting
                keys.add(waiting.key)
        for request_id in chosen:
            del self._waiting[request_id]
        return chosen


class _CodesCache:
    """Codes by content, the least recently used dropped first beyond `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = self.hits = self.misses = 0
        self._codes: OrderedDict[bytes, Array] = OrderedDict()

    def get(self, key: bytes) -> Array | None:
        """The codes, now the most recently used."""
        codes = self._codes.get(key)
        if codes is None:
            self.misses += 1
            return None
        self.hits += 1
        self._codes.move_to_end(key)
        return codes

    def put(self, key: bytes, codes: Array) -> None:
        """Keep the codes, if they fit at all."""
        if key in self._codes or codes.nbytes > self.limit_bytes:
            return
        self._codes[key] = codes
        self.size_bytes += codes.nbytes
        while self.size_bytes > self.limit_bytes:
            _, dropped = self._codes.popitem(last=False)
            self.size_bytes -= dropped.nbytes


def _check(waveform: Array) -> None:
    if waveform.ndim != 1 or not len(waveform):
        raise RequestError(
            f"the reference is of shape {list(waveform.shape)}; it must be one channel with samples in it",
            param="reference",
        )
    if not np.isfinite(waveform).all():
        raise RequestError("the reference has samples that are not finite numbers", param="reference")


def content_key(waveform: Array) -> bytes:
    """What recordings of the same samples have in common, and no others."""
    return hashlib.blake2b(np.ascontiguousarray(waveform, np.float32).tobytes(), digest_size=32).digest()

"""The stage that turns reference recordings into codes, once for each recording."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
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


class VoiceEncoder(Protocol):
    """What a model supplies that hears more of a speaker than codes."""

    def __call__(self, codes: Array, waveform: Array | None) -> Array:
        """`Prompt.voice` of a recording, mono float32 [samples], and its codes; or of codes alone."""


class _Waiting(NamedTuple):
    prompt: Prompt
    given: Array  # The recording, or codes.
    key: bytes
    length: int  # Samples that the encoder gets; none of codes.


class _Encoded(NamedTuple):
    codes: Array | None
    voice: Array | None = None

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self if part is not None)


class EncodeStage:
    """A `Stage`: Prompt in, Prompt out, with `reference_codes` in the place of `reference_waveform`.

    A request to enroll ends here: its reference goes out as `Audio`, at `sample_rate_hz` and with its codes.
    Prompts without a recording pass straight on, ahead of those that must be encoded. The encoder is made
    when the first recording comes; it lengthens a recording of so many samples to `padded_length` of them.
    Codes are kept by the recording's content, up to `cache_bytes`. With a voice encoder, which is made when
    it is first needed, prompts get a `voice`; then those of codes alone wait as well.
    """

    def __init__(
        self,
        make_encoder: Callable[[], ReferenceEncoder],
        cache_bytes: int,
        sample_rate_hz: int = 24_000,
        padded_length: Callable[[int], int] = int,
        make_voice_encoder: Callable[[], VoiceEncoder] | None = None,
    ) -> None:
        self._encoder = cache(make_encoder)
        self._voice_encoder = None if make_voice_encoder is None else cache(make_voice_encoder)
        self._padded_length = padded_length
        self._sample_rate_hz = sample_rate_hz
        self._cache = _CodesCache(cache_bytes)
        self._ready: list[Payload] = []
        self._waiting: dict[str, _Waiting] = {}

    def add(self, payload: Payload) -> None:
        """Queue a prompt. Raises RequestError if its recording is no mono signal of finite numbers."""
        prompt = payload.data
        assert isinstance(prompt, Prompt)
        given = prompt.reference_waveform
        if given is not None:
            _check(given)
        elif self._voice_encoder is not None and not prompt.request.enroll:
            given = prompt.reference_codes
        if given is None:
            self._ready.append(self._done(payload.request_id, prompt, _Encoded(prompt.reference_codes)))
            return
        key = content_key(given)
        encoded = self._cache.get(key)
        if encoded is None:
            length = 0 if prompt.reference_waveform is None else self._padded_length(len(given))
            self._waiting[payload.request_id] = _Waiting(prompt, given, key, length)
        else:
            self._ready.append(self._done(payload.request_id, prompt, encoded))

    def step(self) -> list[Payload]:
        """Hand on what needs no encoding; if there is nothing of the kind, encode one batch."""
        if self._ready:
            ready, self._ready = self._ready, []
            return ready
        batch = self._take_batch()
        references = {waiting.key: waiting for waiting in batch.values()}
        try:
            encoded = dict(zip(references, self._encode(list(references.values())), strict=True))
        except StentorError as error:
            failure = to_failure(error)
            return [Payload(request_id, last=True, failure=failure) for request_id in batch]
        for key, made in encoded.items():
            self._cache.put(key, made)
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
        self._encoder.cache_clear()
        if self._voice_encoder is not None:
            self._voice_encoder.cache_clear()
        self._ready.clear()
        self._waiting.clear()
        self._cache = _CodesCache(0)

    def _encode(self, references: Sequence[_Waiting]) -> list[_Encoded]:
        """One batch: recordings of one padded length, or codes alone."""
        codes = given = [waiting.given for waiting in references]
        recorded = references[0].length > 0
        if recorded:
            codes = self._encoder().encode(given)
        if self._voice_encoder is None:
            return [_Encoded(made) for made in codes]
        hear = self._voice_encoder()
        return [
            _Encoded(made, hear(made, waveform if recorded else None))
            for made, waveform in zip(codes, given, strict=True)
        ]

    def _done(self, request_id: str, prompt: Prompt, encoded: _Encoded) -> Payload:
        """What goes on: the prompt with its codes, if it has a reference, or that reference itself."""
        data: Prompt | Audio
        if prompt.request.enroll:
            waveform, reference = prompt.reference_waveform, prompt.request.reference
            assert reference is not None, "what is enrolled"
            sound = np.zeros(0, np.float32) if waveform is None else waveform
            data = Audio(sound, self._sample_rate_hz, codes=encoded.codes, transcript=reference.text)
        else:
            made = {"reference_codes": encoded.codes, "voice": encoded.voice}
            data = msgspec.structs.replace(prompt, reference_waveform=None, **made)
        return Payload(request_id, data, last=True)

    def _take_batch(self) -> dict[str, _Waiting]:
        """The oldest waiting prompt and others whose recordings become as long, in order of arrival.

        Others wait: more padding than a recording gets alone would change its codes.
        """
        length = next(iter(self._waiting.values())).length
        # Voices are heard one by one.
        most = _MAX_BATCH if self._voice_encoder is None else 1
        chosen: dict[str, _Waiting] = {}
        keys: set[bytes] = set()
        for request_id, waiting in self._waiting.items():
            if waiting.length == length and (waiting.key in keys or len(keys) < most):
                chosen[request_id] = waiting
                keys.add(waiting.key)
        for request_id in chosen:
            del self._waiting[request_id]
        return chosen


class _CodesCache:
    """Codes (and voices) by content, the least recently used dropped first beyond `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = self.hits = self.misses = 0
        self._codes: OrderedDict[bytes, _Encoded] = OrderedDict()

    def get(self, key: bytes) -> _Encoded | None:
        """The codes, now the most recently used."""
        codes = self._codes.get(key)
        if codes is None:
            self.misses += 1
            return None
        self.hits += 1
        self._codes.move_to_end(key)
        return codes

    def put(self, key: bytes, codes: _Encoded) -> None:
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


def content_key(given: Array) -> bytes:
    """What recordings of the same samples, or equal codes, have in common, and no others."""
    told = np.ascontiguousarray(given, np.float32).tobytes()
    return hashlib.blake2b(told, digest_size=32, salt=bytes([given.ndim])).digest()

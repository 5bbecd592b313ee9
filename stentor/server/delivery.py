"""Knows the forms in which audio goes out over HTTP: a file, its bytes as they come, two kinds of events."""

import base64
import json
from typing import Any, Protocol

import numpy as np

from stentor.audio.formats import Encoder, content_type, encode_file
from stentor.errors import StentorError
from stentor.request import Array, Audio
from stentor.server.errors import error_object
from stentor.server.protocol import Delivery, Order

_EVENT_STREAM = "text/event-stream"
_DONE = b"data: [DONE]\n\n"


class Form(Protocol):
    """Turns one stream of audio into bytes; called from one thread at a time, not always the same."""

    media_type: str

    def piece(self, waveform: Array) -> bytes:
        """What to send for the next samples, mono float32 [num_samples], not none; may be empty."""

    def finish(self, last: Audio) -> bytes:
        """What to send after the last samples; `last` carries the finish reason and the usage."""

    def failure(self, error: StentorError) -> bytes | None:
        """What to send if the stream fails now; None, as most forms have no words for that."""
        return None


def make_form(order: Order, sample_rate_hz: int) -> Form:
    """The form in which an order's audio goes out over HTTP."""
    match order.delivery:
        case Delivery.FILE:
            return WholeFile(order.format, sample_rate_hz)
        case Delivery.RAW:
            return RawBytes(order.format, sample_rate_hz)
        case Delivery.DELTAS:
            return DeltaEvents(Encoder(order.format, sample_rate_hz))
        case Delivery.CHUNKS:
            return ChunkEvents(order.format, order.id, sample_rate_hz)


class WholeFile(Form):
    """One file of true length, at the end."""

    def __init__(self, format: str, sample_rate_hz: int, bit_rate: int | None = None) -> None:
        self.media_type = content_type(format)
        self._format = format
        self._sample_rate_hz = sample_rate_hz
        self._bit_rate = bit_rate
        self._pieces: list[Array] = []

    def piece(self, waveform: Array) -> bytes:
        self._pieces.append(waveform)
        return b""

    def finish(self, last: Audio) -> bytes:
        waveform = np.concatenate(self._pieces)
        return encode_file(waveform, self._format, self._sample_rate_hz, self._bit_rate)


class RawBytes(Form):
    """The bytes of one file in the format, as they are made."""

    def __init__(self, format: str, sample_rate_hz: int, bit_rate: int | None = None) -> None:
        self.media_type = content_type(format)
        self._encoder = Encoder(format, sample_rate_hz, bit_rate)

    def piece(self, waveform: Array) -> bytes:
        return self._encoder.encode(waveform)

    def finish(self, last: Audio) -> bytes:
        return self._encoder.finish()


class DeltaEvents(Form):
    """OpenAI's events: slices of one file in `speech.audio.delta`, then `speech.audio.done` with usage."""

    media_type = _EVENT_STREAM

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def piece(self, waveform: Array) -> bytes:
        return self._delta(self._encoder.encode(waveform))

    def finish(self, last: Audio) -> bytes:
        counts = usage(last, "input_tokens", "output_tokens")
        done = {"type": "speech.audio.done", "finish_reason": last.finish_reason}
        # Left out if it is not known: some clients look into whatever is there.
        known = {} if counts is None else {"usage": counts}
        return self._delta(self._encoder.finish()) + _event({**done, **known})

    def failure(self, error: StentorError) -> bytes | None:
        return _event({"type": "error", **error_object(error)})

    def _delta(self, data: bytes) -> bytes:
        return _event({"type": "speech.audio.delta", "audio": _base64(data)}) if data else b""


class ChunkEvents(Form):
    """`audio.speech.chunk` events: audio, then one with finish reason and usage, then `[DONE]`.

    For WAV each event holds a whole small file; for other formats they hold slices of one, since every file
    would start with the codec's silence.
    """

    media_type = _EVENT_STREAM

    def __init__(self, format: str, request_id: str, sample_rate_hz: int) -> None:
        self._format = format
        self._id = f"speech-{request_id}"
        self._sample_rate_hz = sample_rate_hz
        self._encoder = None if format == "wav" else Encoder(format, sample_rate_hz)
        self._index = 0

    def piece(self, waveform: Array) -> bytes:
        if self._encoder is None:
            return self._audio(encode_file(waveform, self._format, self._sample_rate_hz))
        return self._audio(self._encoder.encode(waveform))

    def finish(self, last: Audio) -> bytes:
        rest = b"" if self._encoder is None else self._audio(self._encoder.finish())
        counts = usage(last, "prompt_tokens", "completion_tokens")
        return rest + self._chunk(audio=None, finish_reason=last.finish_reason, usage=counts) + _DONE

    def failure(self, error: StentorError) -> bytes | None:
        return _event({"id": self._id, **error_object(error)}) + _DONE

    def _audio(self, data: bytes) -> bytes:
        if not data:
            return b""
        described = {"format": self._format, "sample_rate": self._sample_rate_hz, "channels": 1}
        return self._chunk(audio={"data": _base64(data), **described}, finish_reason=None)

    def _chunk(self, **fields: Any) -> bytes:
        head = {"id": self._id, "object": "audio.speech.chunk", "index": self._index}
        self._index += 1
        return _event({**head, **fields, "sample_rate": self._sample_rate_hz})


def usage(last: Audio, prompt: str, completion: str) -> dict[str, int] | None:
    """The token counts of an ended stream under the names that a dialect has for them; None if not known."""
    if last.usage is None:
        return None
    numbers = last.usage.prompt_tokens, last.usage.completion_tokens
    return {prompt: numbers[0], completion: numbers[1], "total_tokens": sum(numbers)}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"

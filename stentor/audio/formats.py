"""Knows the audio formats that go out: their names and media types, and how each is written or streamed."""

import functools
import io
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from stentor.errors import InternalError, RequestError
from stentor.request import Array

# What a streamed WAV file states as its size, since nobody knows it yet; players then read to the end.
_UNKNOWN_SIZE = 0xFFFFFFFF


@dataclass(frozen=True)
class Format:
    """One output format; without a `codec` it is written by hand.

    `codec` and `container` are libav's names, `bit_rate` is in bits per second; `stream_options` are for the
    muxer of a stream, which cannot go back to complete a header and must not hold bytes back. What has
    no header is known by its frames: a sound shorter than `least_frames` is filled up with silence.
    """

    content_type: str
    codec: str | None = None
    container: str = ""
    bit_rate: int | None = None
    stream_options: dict[str, str] = field(default_factory=dict)
    least_frames: int = 0


FORMATS: dict[str, Format] = {
    "wav": Format("audio/wav"),
    "pcm": Format("audio/pcm"),
    "flac": Format("audio/flac", "flac", "flac", stream_options={"metadata_header_padding": "0"}),
    "mp3": Format(
        "audio/mpeg",
        "libmp3lame",
        "mp3",
        96_000,
        stream_options={"write_xing": "0", "id3v2_version": "0"},
        least_frames=5,
    ),
    # An Ogg page holds a second unless told otherwise: as long would the listener wait. A sample or two of
    # another rate make none of the codec's.
    "opus": Format(
        "audio/ogg", "libopus", "ogg", 64_000, stream_options={"page_duration": "20000"}, least_frames=1
    ),
    "aac": Format("audio/aac", "aac", "adts", 96_000, least_frames=1),
}

# What telephones speak, 8-bit without a header (ITU-T G.711); for doors whose callers name them.
TELEPHONE_FORMATS: dict[str, Format] = {
    "mulaw": Format("audio/basic", "pcm_mulaw", "mulaw"),
    "alaw": Format("audio/x-alaw-basic", "pcm_alaw", "alaw"),
}


def content_type(name: str) -> str:
    """The media type of a format, for example `audio/mpeg`. Raises RequestError for an unknown name."""
    return _find(name).content_type


def to_pcm16(waveform: Array) -> bytes:
    """Signed 16-bit little-endian samples of a float waveform [num_samples]: clipped to [-1, 1] and rounded.

    Raises:
        InternalError: a sample is not a finite number.
    """
    return _quantised(waveform).tobytes()


def encode_file(waveform: Array, format: str, sample_rate_hz: int, bit_rate: int | None = None) -> bytes:
    """A whole file with true sizes in its header, from mono float32 [num_samples] in [-1, 1].

    `bit_rate` in bits per second replaces the format's own; lossless formats have none.

    Raises:
        RequestError: there is no such format.
        InternalError: a sample is not a finite number.
    """
    described = _find(format)
    if described.codec is None:
        pcm = to_pcm16(waveform)
        header = _wav_header(sample_rate_hz, len(pcm)) if format == "wav" else b""
        return header + pcm
    file = io.BytesIO()
    writer = _LibavWriter(file, _at(described, bit_rate), sample_rate_hz, options={})
    if len(waveform):
        writer.write(_quantised(waveform))
    writer.close()
    return file.getvalue()


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file; where that fails there is none, for half a recording would pass for a whole one."""
    path = Path(path).resolve()
    with path.open("wb") as file:
        try:
            file.write(data)
            file.flush()
        except OSError:
            if path.is_file():
                path.unlink()
            raise


class Encoder:
    """One stream of one format: the bytes of all calls, joined, are one valid file.

    Not to be called from two threads at once; successive calls may come from different threads.
    """

    def __init__(self, format: str, sample_rate_hz: int, bit_rate: int | None = None) -> None:
        """See `encode_file`; raises RequestError if there is no such format."""
        described = _at(_find(format), bit_rate)
        self._out = _Outbox()
        self._writer: _LibavWriter | None = None
        if described.codec is not None:
            self._writer = _LibavWriter(self._out, described, sample_rate_hz, described.stream_options)
        elif format == "wav":
            self._out.write(_wav_header(sample_rate_hz, None))

    def encode(self, waveform: Array) -> bytes:
        """What can be sent after these samples (mono float32 [num_samples] in [-1, 1]); may be empty.

        Raises:
            InternalError: a sample is not a finite number.
        """
        if self._writer is None:
            self._out.write(to_pcm16(waveform))
        elif len(waveform):
            self._writer.write(_quantised(waveform))
        return self._out.take()

    def finish(self) -> bytes:
        """The rest, with everything the codec still held back; the encoder is not used again."""
        if self._writer is not None:
            self._writer.close()
        return self._out.take()


class _Outbox:
    """A file that can only be written to: what was written since the last `take`."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: bytes) -> int:
        self._held += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._held)
        self._held.clear()
        return taken


class _LibavWriter:
    """libav's encoder and muxer for one mono stream, writing to `file` (seekable or not)."""

    def __init__(self, file: Any, format: Format, sample_rate_hz: int, options: dict[str, str]) -> None:
        assert format.codec is not None, "formats without a codec are written by hand"
        self._sample_rate_hz = sample_rate_hz
        self._num_samples = 0
        self._least_frames = format.least_frames
        self._container = av.open(file, mode="w", format=format.container, options=options)
        rate_hz = _encoder_rate_hz(format.codec, sample_rate_hz)
        self._stream = self._container.add_stream(format.codec, rate=rate_hz, layout="mono")
        self._stream.codec_context.thread_count = 1
        if format.bit_rate is not None:
            self._stream.codec_context.bit_rate = format.bit_rate

    def write(self, pcm: Array) -> None:
        frame = av.AudioFrame.from_ndarray(pcm[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = self._sample_rate_hz
        frame.pts = self._num_samples
        self._num_samples += len(pcm)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        # libav knows AAC for certain by three frames in a row, and MP3 by seven (aacdec.c, mp3dec.c);
        # the codec's own delay makes the rest of them.
        least = self._least_frames * self._stream.codec_context.frame_size
        if 0 < self._num_samples <= least:
            self.write(np.zeros(least + 1 - self._num_samples, "<i2"))
        self._container.mux(self._stream.encode(None))
        self._container.close()


@functools.cache
def _encoder_rate_hz(codec: str, sample_rate_hz: int) -> int:
    """The stream's own rate if the codec takes it, else the next higher one, else the highest."""
    rates: list[int] = sorted(av.codec.Codec(codec, "w").audio_rates or [sample_rate_hz])
    return next((rate for rate in rates if rate >= sample_rate_hz), rates[-1])


def _at(format: Format, bit_rate: int | None) -> Format:
    return format if format.bit_rate is None or bit_rate is None else replace(format, bit_rate=bit_rate)


def _find(name: str) -> Format:
    found = FORMATS.get(name) or TELEPHONE_FORMATS.get(name)
    if found is None:
        raise RequestError(
            f"the audio format {name!r} is unknown: choose one of {', '.join(FORMATS)}",
            param="response_format",
        )
    return found


def _quantised(waveform: Array) -> Array:
    if not np.isfinite(waveform).all():
        raise InternalError("the model made samples that are not numbers")
    return np.rint(np.clip(waveform, -1.0, 1.0) * 32767.0).astype("<i2")


def _wav_header(sample_rate_hz: int, data_bytes: int | None) -> bytes:
    """The 44 bytes before the samples of a mono 16-bit file (RIFF, 1991); None if nobody knows their size."""
    riff_bytes = _UNKNOWN_SIZE if data_bytes is None else 36 + data_bytes
    described = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate_hz, sample_rate_hz * 2, 2, 16)
    data = struct.pack("<4sI", b"data", _UNKNOWN_SIZE if data_bytes is None else data_bytes)
    return struct.pack("<4sI4s", b"RIFF", riff_bytes, b"WAVE") + described + data

"""Knows how to turn the bytes of an audio file into a waveform, and what is no use as one."""

import io
from collections.abc import Iterator

import av
import numpy as np

from stentor.audio.resample import resample
from stentor.errors import RequestError, TooLargeError
from stentor.request import Array

# libav also opens playlists, which name other files; only containers that hold their own sound are read.
_CONTAINERS = "wav,w64,aiff,au,caf,flac,mp3,ogg,aac,mov,matroska,webm,amr,asf"

# Outside these no one records speech, and a filter between such rates would be huge.
_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 4_000, 768_000

# Peak below -60 dBFS: under the noise of any room.
_SILENCE = 1e-3


def decode(data: bytes, *, sample_rate_hz: int, max_seconds: float, cut: bool = False) -> Array:
    """The sound of an audio file, of any usual kind: mono float32 [num_samples] at `sample_rate_hz`.

    Channels are averaged; other rates are converted by `resample`. Decoding stops where the limit is passed;
    what is longer is refused, or, with `cut`, left out.

    Raises:
        RequestError: it is not audio, holds no samples, or samples that are not numbers.
        TooLargeError: it is longer than `max_seconds`.
    """
    if not data:
        raise RequestError("the audio is empty: send the bytes of an audio file", param="references")
    try:
        with av.open(
            io.BytesIO(data), metadata_errors="ignore", options={"format_whitelist": _CONTAINERS}
        ) as container:
            waveform, rate_hz = _read_first_stream(container, max_seconds, cut)
    except (av.error.FFmpegError, ValueError, EOFError) as error:
        raise RequestError(
            f"the reference is not audio that can be read ({error}): send a WAV, FLAC, MP3, Ogg, AAC, M4A "
            "or WebM file",
            param="references",
        ) from None
    return resample(waveform, rate_hz, sample_rate_hz)


def is_silent(waveform: Array) -> bool:
    """Whether no sample of it could be heard (float [num_samples], full scale is 1)."""
    return len(waveform) == 0 or float(np.abs(waveform).max()) < _SILENCE


def _read_first_stream(
    container: "av.container.InputContainer", max_seconds: float, cut: bool
) -> tuple[Array, int]:
    if not container.streams.audio or container.streams.audio[0].codec_context is None:
        raise RequestError(
            "the reference holds no audio stream of a known codec: send an audio file", param="references"
        )
    rate_hz = container.streams.audio[0].rate or 0
    if not _LOWEST_RATE_HZ <= rate_hz <= _HIGHEST_RATE_HZ:
        raise RequestError(
            f"the reference has a sample rate of {rate_hz} Hz, but must have one from {_LOWEST_RATE_HZ} to "
            f"{_HIGHEST_RATE_HZ}: convert it to 24000",
            param="references",
        )
    pieces, num_samples = [], 0
    for piece in _decoded(container):
        pieces.append(piece)
        num_samples += len(piece)
        if num_samples > max_seconds * rate_hz:
            if cut:
                break
            raise TooLargeError(
                f"the reference is longer than {max_seconds:g} seconds: send a shorter piece, or raise "
                "--max-seconds",
                param="references",
            )
    waveform = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if len(waveform) == 0:
        raise RequestError("the reference holds no samples: send a longer recording", param="references")
    if not np.isfinite(waveform).all():
        raise RequestError("the reference holds samples that are not numbers", param="references")
    return waveform, rate_hz


def _decoded(container: "av.container.InputContainer") -> Iterator[Array]:
    """Mono pieces in order; damaged packets are skipped while most are sound."""
    # Not in planes: of those PyAV finds eight, and reads whatever memory lies behind them for a ninth.
    to_float = av.AudioResampler(format="flt")
    sound, damaged = 0, 0
    for packet in container.demux(audio=0):
        try:
            frames = [converted for frame in packet.decode() for converted in to_float.resample(frame)]
        except av.error.InvalidDataError:
            damaged += 1
            if damaged > sound + 1:
                raise
            continue
        sound += 1
        for frame in frames:
            channels = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
            yield channels.mean(axis=1, dtype=np.float32)

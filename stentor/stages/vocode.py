"""The stage that turns frames into sound: exact windows, decoded first for those who would run dry first."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stentor.config import VocoderConfig
from stentor.errors import InternalError, RequestError, to_failure
from stentor.request import Array, Audio, Frames
from stentor.stages.base import Payload
from stentor.stages.playout import ROUNDS_AHEAD, ChunkRules, Stream

# So many frames of far context cost what a near one does (measured of the one codec that has any).
_FAR_FRAMES = 64
# Weight of the newest round in the running averages of decoding times.
_NEWEST = 0.3


class Vocoder(Protocol):
    """What a model supplies: a decoder that is exact with `context_frames` of real context before a chunk and
    `lookahead_frames` behind it.

    Of the context before, `near_frames` cost what a chunk's own do, what is farther a little. It
    takes windows of up to `longest_window` frames, if that is not None. If it `overlaps`, decoding goes on
    elsewhere behind `begin`, and the next round is begun before the last one is read.
    """

    sample_rate_hz: int
    samples_per_frame: int
    context_frames: int
    lookahead_frames: int
    near_frames: int
    num_codebooks: int
    codebook_size: int
    longest_window: int | None
    overlaps: bool

    def begin(self, windows: Sequence[Array], skipped: Sequence[int]) -> Callable[[], list[Array]]:
        """Integers [frames, codebooks] to float32 [frames * samples_per_frame] each; edges count as ends.

        Nobody hears the first `skipped` frames of a window: their samples may be left out. Gives a function
        that waits for all.
        """


@dataclass(frozen=True)
class _Piece:
    """What one round does for one stream: `chunk` frames, behind `skipped` frames of context in `window`.

    It `costs` what so many frames do.
    """

    request_id: str
    stream: Stream
    chunk: int
    window: Array
    skipped: int
    costs: int


@dataclass(frozen=True)
class _Flight:
    """A round under way."""

    pieces: list[_Piece]
    read: Callable[[], list[Array]]
    started_s: float


class VocodeStage:
    """A `Stage`: Frames in, Audio out; any chunking gives the samples of decoding all codes at once.

    A frame is emitted when its right context is there or the stream has ended. A streaming request gets
    chunks by its listener's play-out clock (`playout.Stream`), any other is decoded when it has ended.
    Progress never needs a timer: frames keep coming while a stream generates, its last payload makes it due.
    """

    def __init__(
        self, vocoder: Vocoder, config: VocoderConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._vocoder = vocoder
        self._config = config
        self._clock = clock
        frame_s = vocoder.samples_per_frame / vocoder.sample_rate_hz
        longest = vocoder.longest_window
        most = None if longest is None else longest - vocoder.context_frames - vocoder.lookahead_frames
        # What a chunk costs beside its own frames.
        far = vocoder.context_frames - vocoder.near_frames
        self._around = vocoder.near_frames + far // _FAR_FRAMES + vocoder.lookahead_frames
        self._rules = ChunkRules(
            vocoder.context_frames,
            vocoder.lookahead_frames,
            frame_s,
            config.initial_chunk_frames,
            min(config.max_chunk_frames, most or config.max_chunk_frames),
            most,
        )
        self._streams: dict[str, Stream] = {}
        self._flight: _Flight | None = None
        self._last_read_s = 0.0
        self._round_s = 0.0
        self._decode_s_per_frame = 0.0
        self._underruns = 0

    def add(self, payload: Payload) -> None:
        """Take the next frames of a stream. Raises RequestError if they do not fit the codec."""
        frames = payload.data
        assert isinstance(frames, Frames)
        if frames.request is not None:
            self._streams[payload.request_id] = Stream(frames.request, self._rules)
        stream = self._streams.get(payload.request_id)
        if stream is None:
            return  # It ended here already: aborted, or refused for frames before these.
        try:
            self._check(frames.codes)
        except RequestError:
            del self._streams[payload.request_id]
            raise
        if payload.last:
            stream.finish_reason, stream.usage = frames.finish_reason, frames.usage
        stream.append(frames.codes, self._clock(), ended=payload.last)

    def step(self) -> list[Payload]:
        """Decode one batch of the most urgent streams' windows; gives that batch, or the one before it."""
        flight = self._launch()
        if self._vocoder.overlaps:
            flight, self._flight = self._flight, flight
        return self._collect(flight) if flight else []

    def abort(self, request_id: str) -> None:
        self._streams.pop(request_id, None)

    def has_work(self) -> bool:
        """Is any stream due, or a round under way."""
        if self._flight is not None:
            return True
        now_s = self._clock()
        return any(stream.next_chunk(now_s, self._round_s) is not None for stream in self._streams.values())

    def stats(self) -> dict[str, float]:
        """Streams under way, chunks that came after their listener had run dry, seconds of a usual round."""
        return {"streams": len(self._streams), "underruns": self._underruns, "round_s": self._round_s}

    def close(self) -> None:
        self._flight = None
        self._streams.clear()

    def _check(self, codes: Array) -> None:
        width, size = self._vocoder.num_codebooks, self._vocoder.codebook_size
        if codes.ndim != 2 or codes.shape[1] != width or codes.dtype.kind not in "iu":
            raise RequestError(
                f"the codes are {codes.dtype} of shape {list(codes.shape)}, "
                f"but must be integers [frames, {width}]"
            )
        # Of most pieces, which are one frame and cannot be negative, there is but one thing to ask.
        if len(codes) and (codes.max() >= size or (codes.dtype.kind == "i" and codes.min() < 0)):
            raise RequestError(f"a code is outside 0 to {size - 1}: special codes must be replaced before")

    def _launch(self) -> _Flight | None:
        """Begin a round, if any stream is due."""
        started_s = self._clock()
        pieces = self._choose(started_s)
        if not pieces:
            return None
        read = self._vocoder.begin([piece.window for piece in pieces], [piece.skipped for piece in pieces])
        for piece in pieces:
            piece.stream.in_flight = True
        return _Flight(pieces, read, started_s)

    def _collect(self, flight: _Flight) -> list[Payload]:
        """Wait for a round, and hand on what came of the streams that are still here."""
        waveforms = flight.read()
        now_s = self._clock()
        # A round that was begun behind another did not decode before that one was done.
        self._learn(flight.pieces, now_s - max(flight.started_s, self._last_read_s))
        self._last_read_s = now_s
        return [
            self._emit(piece, waveform, now_s)
            for piece, waveform in zip(flight.pieces, waveforms, strict=True)
            if self._streams.get(piece.request_id) is piece.stream
        ]

    def _choose(self, now_s: float) -> list[_Piece]:
        """The most urgent windows that a round has room for; at least one, if any is due."""
        due = [
            (stream.deadline_s, request_id, stream, chunk)
            for request_id, stream in self._streams.items()
            if (chunk := stream.next_chunk(now_s, self._round_s)) is not None
        ]
        due.sort(key=lambda entry: entry[0])
        pieces: list[_Piece] = []
        room = 0
        for _, request_id, stream, chunk in due:
            if not pieces:
                room = self._room(now_s, for_listener=stream.request.stream)
                chunk = min(chunk, max(1, room - self._around))
            window, skipped = stream.window(chunk) if chunk else (stream.codes()[:0], 0)
            far = max(0, skipped - self._vocoder.near_frames)
            costs = len(window) - far + far // _FAR_FRAMES
            if pieces and costs > room:
                break
            pieces.append(_Piece(request_id, stream, chunk, window, skipped, costs))
            room -= costs
        return pieces

    def _room(self, now_s: float, *, for_listener: bool) -> int:
        """Frames that this round may decode: as many as are done before any listener runs dry.

        A round that begins with a file leaves that listener the time for a round of its own.
        """
        most = self._config.max_batch_frames
        least = min(most, self._rules.max_chunk_frames + self._around)
        dry_at_s = [stream.dry_at_s for stream in self._streams.values() if stream.dry_at_s is not None]
        if not dry_at_s or not self._decode_s_per_frame:
            return most
        time_s = min(dry_at_s) - now_s - (0 if for_listener else ROUNDS_AHEAD * self._round_s)
        return max(least, min(most, int(time_s / self._decode_s_per_frame)))

    def _learn(self, pieces: Sequence[_Piece], seconds: float) -> None:
        frames = sum(piece.costs for piece in pieces)
        if not frames:
            return
        newest = _NEWEST if self._decode_s_per_frame else 1.0
        self._decode_s_per_frame += newest * (seconds / frames - self._decode_s_per_frame)
        # Rounds for files alone are as long as nobody listens.
        if any(piece.stream.request.stream for piece in pieces):
            newest = _NEWEST if self._round_s else 1.0
            self._round_s += newest * (seconds - self._round_s)

    def _emit(self, piece: _Piece, waveform: Array, now_s: float) -> Payload:
        stream, size = piece.stream, self._vocoder.samples_per_frame
        self._underruns += stream.emitted(piece.chunk, now_s)
        # From the end: what was skipped may not be there.
        start = len(waveform) - (len(piece.window) - piece.skipped) * size
        samples = waveform[start : start + piece.chunk * size]
        if not np.isfinite(samples).all():
            del self._streams[piece.request_id]
            error = InternalError("the vocoder's numbers left the range of its --vocoder-dtype: use float32")
            return Payload(piece.request_id, last=True, failure=to_failure(error))
        samples = np.clip(samples, -1.0, 1.0)
        last = stream.ended and stream.num_emitted == stream.num_frames
        if not last:
            return Payload(piece.request_id, Audio(samples, self._vocoder.sample_rate_hz))
        del self._streams[piece.request_id]
        codes = stream.codes() if stream.request.return_codes else None
        rate_hz = self._vocoder.sample_rate_hz
        audio = Audio(samples, rate_hz, stream.finish_reason, stream.usage, codes)
        return Payload(piece.request_id, audio, last=True)

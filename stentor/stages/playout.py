"""One stream on its way to a listener: its codes, what is exact already, and when the listener runs dry."""

import math
from dataclasses import dataclass, field

import numpy as np

from stentor.request import Array, FinishReason, SpeechRequest, Usage

# What a chunk spends between the vocoder and the listener's loudspeaker, beyond the decoding itself.
_TRANSPORT_S = 0.01
# Rounds of decoding that are begun before a listener runs dry: one, and half of one for what may go wrong.
ROUNDS_AHEAD = 1.5
# A new listener may wait this long behind those who are about to run dry, and who waits for a file this long.
_FIRST_CHUNK_PATIENCE_S = 0.1
_FILE_PATIENCE_S = 1.0


@dataclass(frozen=True)
class ChunkRules:
    """What all streams share: `context_frames` before a chunk and `lookahead_frames` behind make it exact.

    A chunk for a listener is of `max_chunk_frames` at most, one of a file of `max_file_frames`, if any.
    """

    context_frames: int
    lookahead_frames: int
    frame_s: float
    initial_frames: int
    max_chunk_frames: int
    max_file_frames: int | None = None

    def rung(self, frames: int) -> int:
        """The largest chunk size within `frames`: a power of two or the longest chunk.

        Few sizes make windows of different streams equally long, so that they can be decoded as one batch.
        """
        if frames >= self.max_chunk_frames:
            return self.max_chunk_frames
        return 1 << (frames.bit_length() - 1) if frames > 0 else 0


@dataclass
class Stream:
    """The state of one request: codes only, so that it can be rebuilt or dropped at any moment.

    `dry_at_s` is when the chunks emitted so far will have been played; None until the first one. A request
    that does not stream has no listener: it is due when it has ended.
    """

    request: SpeechRequest
    rules: ChunkRules
    num_frames: int = 0
    num_emitted: int = 0
    dry_at_s: float | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    ended: bool = False
    in_flight: bool = False  # A chunk of it is being decoded: the next one must wait.
    _pieces: list[Array] = field(default_factory=list)
    _wanted_frames: int = 0
    _first_arrival_s: float = 0.0
    _last_arrival_s: float = 0.0
    _waits_since_s: float | None = None

    def append(self, codes: Array, now_s: float, *, ended: bool) -> None:
        """Take the next frames, uint16 [frames, codebooks]."""
        if not self.num_frames:
            self._first_arrival_s = now_s
        self._last_arrival_s = now_s
        self._pieces.append(codes)
        self.num_frames += len(codes)
        self.ended = ended
        if self._waits_since_s is None and (ended or (self.request.stream and self.num_pending)):
            self._waits_since_s = now_s

    @property
    def num_pending(self) -> int:
        """Frames whose samples are exact and not yet emitted: those with context, at the end all."""
        exact = self.num_frames if self.ended else self.num_frames - self.rules.lookahead_frames
        return max(0, exact - self.num_emitted)

    @property
    def deadline_s(self) -> float:
        """When its next chunk should be there; the earliest goes first."""
        if self.dry_at_s is not None:
            return self.dry_at_s
        patience_s = _FIRST_CHUNK_PATIENCE_S if self.request.stream else _FILE_PATIENCE_S
        return (self._waits_since_s or 0.0) + patience_s

    def next_chunk(self, now_s: float, round_s: float) -> int | None:
        """Frames to emit now; None: wait for more; 0: only the end is left to tell.

        Chunks double while the listener stays ahead. When the audio left to play barely lasts for another
        frame to arrive and a round of decoding (`round_s`) with half of one to spare, whatever is exact goes
        out, unless it plays for less than the round takes: then decoding could never catch up.
        """
        if self.in_flight:
            return None
        pending = self.num_pending
        if self.ended:
            most = self.rules.max_chunk_frames if self.request.stream else self.rules.max_file_frames
            return pending if most is None else min(pending, most)
        if not (pending and self.request.stream):
            return None
        interval_s = (self._last_arrival_s - self._first_arrival_s) / max(1, self.num_frames - 1)
        margin_s = ROUNDS_AHEAD * round_s + interval_s + _TRANSPORT_S
        if self.dry_at_s is not None and pending < self._wanted_frames and self.dry_at_s - now_s > margin_s:
            return None  # As mostly: each stream is asked in each round.
        worthwhile = max(1, min(math.ceil(round_s / self.rules.frame_s), self.rules.max_chunk_frames))
        if self.dry_at_s is None:
            first = self._first_chunk(margin_s + (worthwhile - 1) * interval_s)
            return max(first, self.rules.rung(pending)) if pending >= first else None
        urgent = self.dry_at_s - now_s <= margin_s and pending >= worthwhile
        return self.rules.rung(pending) if urgent or pending >= self._wanted_frames else None

    def _first_chunk(self, second_s: float) -> int:
        """Frames in the first chunk: what was asked for, else enough to last for the seconds to the next."""
        asked = self.request.initial_chunk_frames
        frames = asked or max(self.rules.initial_frames, math.ceil(second_s / self.rules.frame_s))
        return min(frames, self.rules.max_chunk_frames)

    def window(self, chunk: int) -> tuple[Array, int]:
        """The codes to decode for the next `chunk` frames, and how many of them are context before it."""
        start = max(0, self.num_emitted - self.rules.context_frames)
        end = min(self.num_frames, self.num_emitted + chunk + self.rules.lookahead_frames)
        return self.codes()[start:end], self.num_emitted - start

    def codes(self) -> Array:
        """All frames so far, uint16 [frames, codebooks]."""
        if len(self._pieces) > 1:
            self._pieces = [np.concatenate(self._pieces)]
        return self._pieces[0]

    def emitted(self, chunk: int, now_s: float) -> bool:
        """Note that `chunk` frames have gone out: the listener's clock goes on. True if they came late."""
        self.in_flight = False
        self.num_emitted += chunk
        self._waits_since_s = now_s
        self._wanted_frames = min(2 * max(chunk, 1), self.rules.max_chunk_frames)
        if not self.request.stream or not chunk:
            return False
        dry_at_s = now_s if self.dry_at_s is None else self.dry_at_s
        self.dry_at_s = max(dry_at_s, now_s) + chunk * self.rules.frame_s
        return now_s > dry_at_s

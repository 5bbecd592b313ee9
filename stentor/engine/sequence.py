"""One request's autoregressive state on the host: its prompt, its rows, its blocks."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from stentor.errors import RequestError, StentorError
from stentor.request import Array, FinishReason, SamplingParams, Usage


@dataclass(eq=False)
class Sequence:
    """A prompt and the rows that grow from it.

    `prompt` is int32 [num_tokens, 1 + num_codebooks]: a text id and zeros, or -1 and a row of codes,
    mostly the reference's. It says all that the model sees, so equal prefixes of it are equal prefixes of the
    cache, and two voices never share one. `max_rows` bounds the rows by the request's limit, `guard_rows` by
    the length of its text (None: no guard). `nested` says that a row is a frame; `voice` is the vector that a
    prompt with a `VOICE_ROW` holds there, float32.
    """

    id: str
    prompt: Array
    sampling: SamplingParams
    max_rows: int
    guard_rows: int | None = None
    nested: bool = False
    voice: Array | None = None
    arrival: int = 0
    blocks: list[int] = field(default_factory=list)
    num_cached: int = 0
    num_filled: int = 0  # positions of the prompt whose keys and values are in the cache
    num_rows: int = 0
    slot: int | None = None  # its row of the batch, while it runs
    offset: int = 0  # while it runs: the position that it computes in a round, less the round's number
    due: int = 0  # the round in which it needs another block
    gone: bool = False  # ended or aborted: what is still under way for it is dropped
    prefix_keys: list[bytes] | None = None
    saved: Any = None  # what the model runner put aside when the sequence had to make room

    def __post_init__(self) -> None:
        self.rows = np.zeros((self.max_rows, self.prompt.shape[1] - 1), dtype=np.uint16)

    @property
    def num_positions(self) -> int:
        """Positions whose keys and values are, or are about to be, in the cache."""
        return len(self.prompt) + max(0, self.num_rows - 1)

    def append(self, row: Array, ends: bool = False) -> Array:
        """Take the next row; give the frames that it completes, uint16 [0 or 1, num_codebooks].

        Frame f is the diagonal of rows f .. f + num_codebooks - 1. Frames after the end of content never
        complete, because the state machine stops with the row that completes the last one.
        """
        num_codebooks = self.rows.shape[1]
        self.rows[self.num_rows] = row
        self.num_rows += 1
        if self.nested:  # and the row that ends it says nothing else
            return self.rows[self.num_rows - (not ends) : self.num_rows]
        first = self.num_rows - num_codebooks
        if first < 0:
            return self.rows[:0]
        start = first * num_codebooks
        return self.rows.reshape(-1)[start : start + num_codebooks**2 : num_codebooks + 1][None]

    def usage(self) -> Usage:
        """Positions of the prompt and rows generated so far."""
        return Usage(len(self.prompt), self.num_rows)


class Output(NamedTuple):
    """What one step gave one sequence: frames uint16 [0 or 1, num_codebooks], and why it ended, if it did.

    With an `error` it has ended without having been computed.
    """

    sequence: Sequence
    frames: Array
    finish_reason: FinishReason | None = None
    error: StentorError | None = None


def delay(codes: Array, begin_code: int, end_code: int) -> Array:
    """The delay pattern: codes [num_frames, num_codebooks] to rows [num_frames + num_codebooks - 1, ...].

    Codebook c lags c rows behind; the gaps hold `begin_code` before and `end_code` after (MusicGen,
    arXiv:2306.05284; no further rows stand around the content).

    Raises:
        RequestError: the codes are not a matrix.
    """
    if codes.ndim != 2:
        raise RequestError(f"codes must be [num_frames, num_codebooks], not {list(codes.shape)}")
    num_frames, num_codebooks = codes.shape
    rows = np.full((num_frames + num_codebooks - 1, num_codebooks), end_code, dtype=np.int32)
    for c in range(num_codebooks):
        rows[:c, c] = begin_code
        rows[c : c + num_frames, c] = codes[:, c]
    return rows

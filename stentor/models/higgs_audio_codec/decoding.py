"""Windows of many streams, padded into a few shapes, each shape one graph: a vocoder round without waiting.

A batch is decoded from one upload of fixed size, codes and lengths, and comes back by one copy. Padding is
exact: the decoder ends every window where it ends. So the number of graphs and all memory are known at start.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stentor.engine.cuda_graph import Capture
from stentor.engine.landing import download, landed, upload
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.request import Array

# Frames of a window, padded: what usual chunks become with their context (see `stages.playout`), and files.
_FRAMES = (16, 24, 32, 48, 72, 144)

DecodeShape = tuple[int, int]
"""Windows, and frames of each."""

Decode = Callable[[Tensor, Tensor | None], Tensor]
"""Codes and lengths to samples: see `decoder.Decoder`."""


def decode_shapes(most_frames: int, context_frames: int) -> list[DecodeShape]:
    """The batches that are captured: windows by powers of two, of together at most `most_frames` frames.

    One window that can bring a frame forward, with its context on both sides, there is in any case.
    """
    needed = next(frames for frames in _FRAMES if frames > 2 * context_frames)
    lengths = [frames for frames in _FRAMES if frames <= max(most_frames, needed)]
    return [
        (1 << power, frames)
        for frames in lengths
        for power in range(max(1, (most_frames // frames).bit_length()))
    ]


def batches(
    windows: Sequence[Array], padded: Callable[[int], int], most: Callable[[int], int]
) -> Iterator[tuple[int, list[int]]]:
    """Places of the windows that are not empty, by their `padded` length, at most `most` of it together."""
    by_frames: dict[int, list[int]] = defaultdict(list)
    for place, window in enumerate(windows):
        if len(window):
            by_frames[padded(len(window))].append(place)
    for frames, places in by_frames.items():
        size = most(frames)
        for start in range(0, len(places), size):
            yield frames, places[start : start + size]


class DecodeGraphs:
    """The decoder at each of `shapes`; without `capture` the same operations run as they are called.

    Everything is put in the order of one stream; only the function that `begin` gives waits for it, in the
    thread that calls it.
    """

    def __init__(
        self,
        decoder: Decode,
        config: CodecConfig,
        device: torch.device,
        shapes: Sequence[DecodeShape],
        capture: Capture | None,
        stream: torch.cuda.Stream | None,
    ) -> None:
        self._decoder = decoder
        self._codebooks, self._frame_samples = config.num_codebooks, config.samples_per_frame
        self._device = device
        self._capture = capture
        self._stream = stream
        self._rows: dict[int, list[int]] = defaultdict(list)
        for windows, frames in sorted(shapes):
            self._rows[frames].append(windows)
        self.longest = max(self._rows)
        self._uploads: dict[DecodeShape, Tensor] = {}
        self._captured: dict[DecodeShape, tuple[Callable[[], None], Tensor]] = {}

    def __len__(self) -> int:
        return len(self._captured)

    def warm_up(self) -> None:
        """Make every buffer, and capture all graphs, the largest first: the others fit into its memory."""
        shapes = [(windows, frames) for frames, rows in self._rows.items() for windows in rows]
        with self._in_order():
            for shape in sorted(shapes, key=lambda shape: -shape[0] * shape[1]):
                self._graph(shape)

    def begin(self, windows: Sequence[Array]) -> Callable[[], list[Array]]:
        """See `CodecVocoder.begin`; each window is of at most `longest` frames."""
        parts: list[tuple[list[int], Tensor]] = []
        with self._in_order():
            for frames, places in batches(windows, self._padded, lambda frames: self._rows[frames][-1]):
                parts.append((places, self._decode([windows[place] for place in places], frames)))
            wait = landed(self._device)

        def read() -> list[Array]:
            wait()
            waveforms: list[Array] = [np.zeros(0, np.float32)] * len(windows)
            for places, samples in parts:
                for place, row in zip(places, samples.numpy(), strict=True):
                    # It keeps the pinned memory of its batch, so whoever reads it is not to keep it.
                    waveforms[place] = row[: len(windows[place]) * self._frame_samples]
            return waveforms

        return read

    def _padded(self, frames: int) -> int:
        return min(known for known in self._rows if known >= frames)

    def _decode(self, windows: list[Array], frames: int) -> Tensor:
        """One batch; gives where its samples will be, [windows, frames * samples_per_frame], on the host."""
        rows = next(rows for rows in self._rows[frames] if rows >= len(windows))
        codes = np.zeros((rows, frames, self._codebooks), np.int16)
        lengths = np.zeros(rows, np.int16)
        for row, window in enumerate(windows):
            codes[row, : len(window)] = window
            lengths[row] = len(window)
        replay, samples = self._graph((rows, frames))
        upload(np.concatenate((codes.reshape(-1), lengths)), self._device, self._uploads[rows, frames])
        replay()
        return download(samples[: len(windows)])

    def _graph(self, shape: DecodeShape) -> tuple[Callable[[], None], Tensor]:
        if shape not in self._captured:
            rows, frames = shape
            size = rows * frames * self._codebooks
            words = torch.zeros(size + rows, dtype=torch.int16, device=self._device)
            self._uploads[shape] = words

            def run() -> Tensor:
                codes, lengths = torch.split(words, [size, rows])
                return self._decoder(codes.view(rows, frames, -1), lengths)

            self._captured[shape] = self._capture(run, run) if self._capture else self._uncaptured(run)
        return self._captured[shape]

    def _uncaptured(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        samples = run().clone()

        def again() -> None:
            samples.copy_(run())

        return again, samples

    def _in_order(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

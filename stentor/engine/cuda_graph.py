"""The step, and short prefills, as CUDA graphs: captured once for each size, then replayed by one launch.

What a graph does is what ran while it was captured, on the same addresses. So all that changes from step to
step lies in buffers that never move, and whatever has fewer rows than a graph is padded with idle ones.
"""

import threading
from collections.abc import Callable
from collections.abc import Sequence as Rows
from typing import Any

import torch
from torch import Tensor

from stentor.engine.arrays import Values
from stentor.engine.landing import upload
from stentor.engine.prefill import Prefill, PrefillShape, pack
from stentor.engine.scheduler import Chunk
from stentor.engine.state import BatchState
from stentor.engine.step import DecodeStep
from stentor.request import Array

Capture = Callable[[Callable[[], object], Callable[[], Any]], tuple[Callable[[], None], Any]]
"""Rehearses on buffers that matter to nobody, records `run`; gives how to replay it, and its result, which
every replay writes again."""

# PyTorch captures one graph at a time: to begin one waits for the device, which breaks what others capture.
_CAPTURING = threading.Lock()
# Rehearsals before a capture: kernels are compiled and chosen, libraries get their workspaces.
_REHEARSALS = 2
# Block tables are cut to this many positions, or twice as many and so on: each width is another graph.
_NARROWEST_POSITIONS = 1024
# Positions of the prefills that are captured, and the sequences in each, at most: a prompt of one sentence
# has about 16. What fits none costs a launch for each of its kernels, some hundreds.
_PREFILLS = ((64, 8), (128, 8), (256, 16), (512, 32))


def capture_on(stream: torch.cuda.Stream) -> Capture:
    """Captures on this stream, all graphs in one pool of memory: they never run at the same time."""
    pool = torch.cuda.graph_pool_handle()

    def capture(rehearse: Callable[[], object], run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        with torch.cuda.stream(stream):
            for _ in range(_REHEARSALS):
                rehearse()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads of this process (the vocoder's) go on allocating meanwhile.
        with _CAPTURING, torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
            result = run()
        return graph.replay, result

    return capture


def own_stream(device: torch.device, *, urgent: bool = False) -> torch.cuda.Stream:
    """A stream beside the present one, behind what that holds: weights and caches are still being written.

    The kernels of an `urgent` one go before the others'.
    """
    stream = torch.cuda.Stream(device, priority=-urgent)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream


def graph_sizes(max_rows: int) -> list[int]:
    """The batch sizes that are captured: fine steps where a row more is a large part of the work."""
    steps = [1, 2, 4, *range(8, 65, 8), *range(80, max_rows + 16, 16)]
    return [size for size in steps if size < max_rows] + [max_rows]


class StepGraphs:
    """`DecodeStep` over the first rows of one state, captured by what says all that a step does."""

    def __init__(self, step: DecodeStep, state: BatchState, capture: Capture, block_size: int) -> None:
        self._narrowest = -(-_NARROWEST_POSITIONS // block_size)
        self._step = step
        self._state = state
        self._capture = capture
        self._sizes = graph_sizes(len(state.packed))
        self._captured: dict[tuple[int, int, int, bool], tuple[Callable[[], None], Tensor]] = {}
        # The rehearsals' state: its rows are idle and stay so.
        self._nobody = BatchState.over(state.packed.clone(), state.last_rows.shape[1])

    def __call__(self, size: int, num_blocks: int, candidates: int, penalises: bool = False) -> Tensor:
        """The step of the first `size` rows, of at most `num_blocks` blocks; the others must be idle.

        Returns:
            Their records; the memory is that of all graphs, so they must be copied before the next replay.
        """
        padded = next(known for known in self._sizes if known >= size)
        replay, record = self._graph(padded, self._width(num_blocks), candidates, penalises)
        replay()
        return record[:size]

    def warm_up(self, candidates: int, largest_only: bool = False, penalises: bool = False) -> None:
        """Capture the usual graphs, the largest first: the smaller ones fit into its memory."""
        for size in self._sizes[:: -len(self._sizes) if largest_only else -1]:
            self._graph(size, self._width(1), candidates, penalises)

    def _width(self, num_blocks: int) -> int:
        width = self._narrowest
        while width < num_blocks:
            width *= 2
        widest: int = self._state.block_tables.shape[1]
        return min(width, widest)

    def _graph(
        self, size: int, num_blocks: int, candidates: int, penalises: bool
    ) -> tuple[Callable[[], None], Tensor]:
        key = (size, num_blocks, candidates, penalises)
        if key not in self._captured:
            nobody, rows = self._nobody.rows(0, size), self._state.rows(0, size)
            self._captured[key] = self._capture(
                lambda: self._step(nobody, num_blocks, candidates, penalises),
                lambda: self._step(rows, num_blocks, candidates, penalises),
            )
        return self._captured[key]


class PrefillGraphs:
    """`Prefill` over one static upload for each number of positions."""

    def __init__(
        self, prefill: Prefill, state: BatchState, capture: Capture, block_size: int, voice_words: int = 0
    ) -> None:
        """`state` is that of the batch, whose rows the prefill's are to become."""
        self._prefill = prefill
        self._block_size = block_size
        self._capture = capture
        self._device = state.packed.device
        codebooks, max_blocks = state.last_rows.shape[1], state.block_tables.shape[1]
        self._idle = BatchState.idle(_PREFILLS[-1][1], codebooks, max_blocks).packed
        self._shapes = [
            PrefillShape(tokens, sequences, max_blocks, codebooks, self._idle.shape[1], voice_words)
            for tokens, sequences in _PREFILLS
        ]
        self._buffers: dict[PrefillShape, Tensor] = {}
        self._captured: dict[tuple[PrefillShape, int], tuple[Callable[[], None], tuple[Values, Tensor]]] = {}

    def fits(self, chunks: Rows[Chunk]) -> bool:
        """Is there a graph for so much."""
        return self._shape(chunks) is not None

    def __call__(self, chunks: Rows[Chunk], rows: Array, candidates: int) -> tuple[Values, Tensor]:
        """See `Prefill.__call__`; the results must be copied before the next replay."""
        shape = self._shape(chunks)
        assert shape is not None, "it fits"
        replay, result = self._graph(shape, candidates)
        new_rows = self._idle[: shape.sequences].copy()
        new_rows[: len(rows)] = rows
        upload(pack(chunks, new_rows, shape, self._block_size), self._device, self._buffers[shape])
        replay()
        return result

    def warm_up(self, candidates: int, largest_only: bool = False) -> None:
        """Capture the usual graphs, the largest first."""
        for shape in self._shapes[:: -len(self._shapes) if largest_only else -1]:
            self._graph(shape, candidates)

    def _shape(self, chunks: Rows[Chunk]) -> PrefillShape | None:
        """The smallest that holds them."""
        tokens, rows = sum(chunk.end - chunk.start for chunk in chunks), len(chunks)
        fitting = (shape for shape in self._shapes if tokens <= shape.tokens and rows <= shape.sequences)
        return next(fitting, None)

    def _graph(
        self, shape: PrefillShape, candidates: int
    ) -> tuple[Callable[[], None], tuple[Values, Tensor]]:
        if (shape, candidates) not in self._captured:
            # All padding: every position stands at the place of nobody, every row is idle.
            idle = torch.from_numpy(pack((), self._idle[: shape.sequences], shape, self._block_size))
            nothing = idle.to(self._device)
            static = self._buffers.setdefault(shape, nothing.clone())
            self._captured[shape, candidates] = self._capture(
                lambda: self._prefill(nothing, shape, (), candidates),
                lambda: self._prefill(static, shape, (), candidates),
            )
        return self._captured[shape, candidates]

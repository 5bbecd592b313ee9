"""Graphs replay what was captured, padded: the rows are those of the plain step, and nothing else changes.

A recorder stands in for CUDA: it does the captured operations again on the captured memory, without Python.
"""

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stentor.config import EngineConfig
from stentor.engine.cuda_graph import PrefillGraphs, StepGraphs, capture_on, graph_sizes, own_stream
from stentor.engine.engine import Engine
from stentor.engine.prefill import Prefill, PrefillShape
from stentor.engine.sampler import advance
from stentor.engine.state import BatchState
from stentor.engine.step import DecodeStep
from stentor.layers.attention import SdpaBackend
from stentor.layers.context import Batch, DecodeBatch, PrefillBatch
from stentor.models.higgs_audio_v3.lm import HiggsLM
from tests.engine.accounting import make_sequence
from tests.engine.harness import make_lm
from tests.engine.recorder import capture_beside
from tests.engine.test_engine import SMALL, sampled


class DeviceBackend(SdpaBackend):
    """Reads a prefill's bounds from tensors, as kernels do: each position is a decode of its own."""

    gathers = False
    plans = False

    def __call__(self, q: torch.Tensor, cache: torch.Tensor, batch: Batch) -> torch.Tensor:
        if isinstance(batch, PrefillBatch):
            owner = torch.searchsorted(batch.starts, torch.arange(len(q)).int(), right=True) - 1
            tables = batch.block_tables.index_select(0, owner.clamp(max=len(batch.contexts) - 1))
            batch = DecodeBatch(batch.positions, batch.slots, tables)
        return self._decode(q, cache, batch)


def make_engine(monkeypatch: pytest.MonkeyPatch, model: HiggsLM, **settings: Any) -> Engine:
    monkeypatch.setattr("stentor.engine.engine.choose_backend", lambda *_: DeviceBackend())
    return Engine(model, EngineConfig(**({"max_context": 240, "max_running_requests": 6} | settings)))


def use_graphs(engine: Engine) -> None:
    """What the runner does on a GPU, with the recorder in the place of CUDA."""
    runner = engine._runner
    state, cache = runner._state.packed, runner._cache
    parts: Any = (runner._model, DeviceBackend(), cache, partial(advance))  # on tensors
    capture = capture_beside(state, cache.data)
    runner._graphs = StepGraphs(DecodeStep(*parts), runner._state, capture, cache.block_size)
    prefill = Prefill(*parts)
    beside = capture_beside(cache.data)
    runner._prefill_graphs = PrefillGraphs(prefill, runner._state, beside, cache.block_size)


def rows_of(engine: Engine) -> dict[str, np.ndarray]:
    sequences = {sequence.id: sequence for sequence in sampled(SMALL, 24)}
    for sequence in sequences.values():
        engine.add(sequence)
    while engine.has_work():
        engine.step()
    assert engine.stats()["kv_blocks_used"] == 0
    return {name: sequence.rows[: sequence.num_rows] for name, sequence in sequences.items()}


@pytest.mark.parametrize("most", [1, 3, 16, 17, 64, 100, 256])
def test_every_batch_has_a_graph_that_is_not_much_larger(most: int) -> None:
    sizes = graph_sizes(most)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == most
    for size in range(1, most + 1):
        assert next(known for known in sizes if known >= size) <= max(size + 15, 2 * size)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """The rows that an engine without graphs draws."""
    with pytest.MonkeyPatch.context() as patch:
        return rows_of(make_engine(patch, make_lm(SMALL), overlap="off"))


@pytest.mark.parametrize("overlap", ["on", "off"])
def test_replayed_steps_and_prefills_give_the_rows_of_the_plain_ones(
    overlap: str, expected: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(monkeypatch, make_lm(SMALL), overlap=overlap, max_prefill_tokens=100)
    use_graphs(engine)
    rows = rows_of(engine)
    assert {name for name in rows if not np.array_equal(rows[name], expected[name])} == set()
    runner = engine._runner
    assert runner._graphs is not None
    assert runner._prefill_graphs is not None
    assert 0 < len(runner._graphs._captured) <= 4 * len(graph_sizes(6))
    assert 0 < len(runner._prefill_graphs._captured) <= 4 * 2


@pytest.mark.parametrize("length", [16, 33, 128])
def test_a_burst_of_usual_prompts_is_prefilled_by_graphs_alone(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(monkeypatch, make_lm(SMALL), max_running_requests=64)
    use_graphs(engine)
    graphs = engine._runner._prefill_graphs
    assert graphs is not None
    for number in range(64):
        engine.add(make_sequence(str(number), length, voice=number))
    while engine._scheduler.waiting:
        chunks = engine._scheduler.plan().chunks
        assert graphs.fits(chunks)
    assert not graphs.fits(chunks * 40)


def test_what_was_warmed_up_is_not_captured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_lm(SMALL)
    engine = make_engine(monkeypatch, model)
    use_graphs(engine)
    state, cache = engine._runner._state.packed.clone(), engine._runner._cache.data[:, 1:].clone()
    engine._runner.warm_up()
    captured = (engine._runner._graphs, engine._runner._prefill_graphs)
    assert None not in captured
    assert [len(graphs._captured) for graphs in captured if graphs] == [len(graph_sizes(6)), 4]
    assert torch.equal(engine._runner._state.packed, state)
    assert torch.equal(engine._runner._cache.data[:, 1:], cache)
    usual = [sequence for sequence in sampled(SMALL, 24) if sequence.sampling.top_k == 30]
    for sequence in usual:
        engine.add(sequence)
    while engine.has_work():
        engine.step()
    engine._runner.warm_up()
    assert [len(graphs._captured) for graphs in captured if graphs] == [len(graph_sizes(6)), 4]


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine with graphs."""
    engine = make_engine(monkeypatch, make_lm(SMALL), overlap="off")
    use_graphs(engine)
    return engine


@pytest.mark.parametrize("room", [1, 3])
def test_a_batch_for_which_no_graph_has_memory_moves_each_row_once(
    room: int, graphed: Engine, expected: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, step = graphed._runner._graphs, graphed._runner._step

    def captured(size: int, *how: Any) -> torch.Tensor:
        if size > room:
            raise torch.OutOfMemoryError
        return graphs(size, *how)

    def plain(rows: BatchState, *how: Any) -> Any:
        if len(rows.packed) > room:
            raise torch.OutOfMemoryError
        return step(rows, *how)

    monkeypatch.setattr(graphed._runner, "_graphs", captured)
    monkeypatch.setattr(graphed._runner, "_step", plain)
    rows = rows_of(graphed)
    assert {name for name in rows if not np.array_equal(rows[name], expected[name])} == set()


@pytest.mark.parametrize("room", [1, 3])
def test_prompts_for_which_no_graph_has_memory_are_computed_without(
    room: int, graphed: Engine, expected: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefill, sizes = graphed._runner._prefill, []

    class Full:
        """Of graphs that are still to be captured, when there is no memory; the driver says so."""

        def fits(self, chunks: Any) -> bool:
            return True

        def __call__(self, *_: Any) -> Any:
            raise RuntimeError("CUDA error: out of memory")

    def plain(upload: torch.Tensor, shape: PrefillShape, *how: Any) -> Any:
        if shape.sequences > room:
            raise torch.OutOfMemoryError
        sizes.append(shape.sequences)
        return prefill(upload, shape, *how)

    monkeypatch.setattr(graphed._runner, "_prefill_graphs", Full())
    monkeypatch.setattr(graphed._runner, "_prefill", plain)
    rows = rows_of(graphed)
    assert sizes
    assert {name for name in rows if not np.array_equal(rows[name], expected[name])} == set()


class Card:
    """Stands in for `torch.cuda`: which streams wait for which, and whether captures keep to themselves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits: list[Any] = []
        self.captures = self.most = 0
        for name, stand_in in {
            "Stream": lambda device, priority: SimpleNamespace(
                priority=priority, wait_stream=self.waits.append, synchronize=lambda: None
            ),
            "current_stream": lambda device: "the present one",
            "graph_pool_handle": lambda: None,
            "stream": lambda stream: contextlib.nullcontext(),
            "CUDAGraph": lambda: SimpleNamespace(replay=None),
            "graph": self.graph,
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)

    @contextlib.contextmanager
    def graph(self, *_: Any, **__: Any) -> Iterator[None]:
        self.captures += 1
        self.most = max(self.most, self.captures)
        yield
        self.captures -= 1


def test_a_stream_of_its_own_begins_behind_what_was_written_before(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch)
    assert own_stream(torch.device("cuda")).priority == 0
    assert own_stream(torch.device("cuda"), urgent=True).priority == -1
    assert card.waits == ["the present one"] * 2


def test_two_threads_capture_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch)
    device, rehearsed = torch.device("cuda"), threading.Event()
    theirs = threading.Thread(target=capture_on(own_stream(device)), args=(rehearsed.set, lambda: None))

    def run() -> int:
        theirs.start()
        assert rehearsed.wait(60)
        theirs.join(0.2)  # Long enough for it to begin, if it could.
        return 5

    assert capture_on(own_stream(device))(lambda: None, run)[1] == 5
    theirs.join(60)
    assert not theirs.is_alive()
    assert card.most == 1

"""One upload says all about several prompts, or pieces of them, and what pads it touches nothing."""

import numpy as np

from stentor.engine.prefill import PrefillShape, pack, shape_of, spans_of
from stentor.engine.scheduler import Chunk
from stentor.engine.state import BatchState
from stentor.layers.context import PrefillSpan
from tests.engine.accounting import make_sequence

WORDS = BatchState.idle(1, 8, 4).packed.shape[1]


def chunks() -> list[Chunk]:
    first, second = make_sequence("a", 40, voice=5), make_sequence("b", 7, voice=6)
    first.blocks, second.blocks = [3, 1, 9], [4]
    return [Chunk(first, 16, 40), Chunk(second, 0, 7)]


def unpacked(shape: PrefillShape) -> list[np.ndarray]:
    rows = BatchState.idle(shape.sequences, 8, 4).packed
    upload = pack(chunks(), rows, shape, 16)
    return np.split(upload, np.cumsum(shape.sizes)[:-1])


def test_the_upload_holds_rows_places_tables_and_bounds() -> None:
    shape = shape_of(chunks(), 8, WORDS)
    assert (shape.tokens, shape.sequences, shape.blocks) == (64, 2, 3)
    prompt, positions, slots, tables, starts, contexts, ends, new_rows, _ = unpacked(shape)
    assert prompt.reshape(64, 9)[:, 0].tolist() == [5] * 24 + [6] * 7 + [0] * 33
    assert positions.tolist() == [*range(16, 40), *range(7)] + [0] * 33
    assert slots.tolist() == [*range(16, 32), *range(144, 152), *range(64, 71)] + [0] * 33
    assert tables.tolist() == [3, 1, 9, 4, 0, 0]
    assert (starts.tolist(), contexts.tolist(), ends.tolist()) == ([0, 24, 31], [40, 7], [23, 30])
    assert np.array_equal(new_rows.reshape(2, WORDS), BatchState.idle(2, 8, 4).packed)


def test_sequences_that_pad_a_graph_have_no_rows() -> None:
    _, _, slots, tables, starts, contexts, ends, *_ = unpacked(PrefillShape(128, 5, 4, 8, WORDS))
    assert len(slots) == 128
    assert not slots[31:].any()
    assert not tables[8:].any()
    assert starts.tolist() == [0, 24, 31, 31, 31, 31]
    assert (contexts[2:].tolist(), ends[2:].tolist()) == ([0, 0, 0], [0, 0, 0])


def test_spans_lie_one_behind_the_other() -> None:
    assert spans_of(chunks()) == (PrefillSpan(0, 24, 40), PrefillSpan(24, 31, 7))

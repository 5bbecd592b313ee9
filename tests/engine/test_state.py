"""The rows of the batch move as wholes, and idle ones are harmless."""

from dataclasses import fields

import torch
from torch import Tensor

from stentor.engine.state import BatchState, Status

NAMES = [field.name for field in fields(BatchState) if field.name != "packed"]
CPU = torch.device("cpu")


def make_state(size: int = 5) -> BatchState:
    return BatchState.allocate(size, 8, 3, CPU)


def filled(size: int = 5) -> BatchState:
    """Every field of a row full of a number of its own."""
    state = make_state(size)
    for number, name in enumerate(NAMES):
        for row in range(size):
            getattr(state, name)[row] = 100 * number + row + 1
    return state


def row_of(state: BatchState, slot: int) -> list[Tensor]:
    return [getattr(state, name)[slot] for name in NAMES]


def same(rows: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(rows, others, strict=True))


def test_the_fields_share_a_row_without_sharing_a_number() -> None:
    state = filled()
    for number, name in enumerate(NAMES):
        for row in range(5):
            assert (getattr(state, name)[row] == 100 * number + row + 1).all()
    assert state.packed.shape == (5, 8 + 12 + 16 * 8 + 3)
    assert (state.noise_key.dtype, state.temperature.dtype) == (torch.int32, torch.float32)
    assert state.status.dtype == state.block_tables.dtype == torch.int64


def test_new_rows_are_idle_and_stand_in_the_block_of_nobody() -> None:
    state = make_state()
    assert state.status.eq(Status.IDLE).all()
    assert not state.block_tables.any()
    assert not state.positions.any()
    assert (state.temperature[2], state.top_p[2], state.top_k[2]) == (1, 1, 1)


def test_slices_and_arrays_are_views_of_the_same_memory() -> None:
    state = make_state()
    part = state.rows(1, 3)
    part.step.fill_(7)
    part.arrays.temperature[:] = 0.5
    assert state.step.tolist() == [0, 7, 7, 0, 0]
    assert state.temperature.tolist() == [1, 0.5, 0.5, 1, 1]
    for name in NAMES:
        assert getattr(part, name).data_ptr() == getattr(state, name)[1].data_ptr()


def test_a_copy_of_a_row_outlives_the_row() -> None:
    state = filled()
    copy, idle = state.copy_row(3), make_state(1).packed
    state.write_rows(3, idle)
    assert same(row_of(state, 3), row_of(make_state(), 0))
    state.write_rows(0, copy)
    assert same(row_of(state, 0), row_of(filled(), 3))


def test_writing_touches_those_rows_only() -> None:
    state = filled()
    state.write_rows(1, make_state(2).packed)
    for slot in (0, 3, 4):
        assert same(row_of(state, slot), row_of(filled(), slot))
    for slot in (1, 2):
        assert same(row_of(state, slot), row_of(make_state(), slot))

"""The rows of the batch move as wholes, and idle ones are harmless."""

import torch
from torch import Tensor

from stentor.engine.state import BatchState, Status


def make_state(size: int = 5) -> BatchState:
    return BatchState.allocate(size, 8, 3, torch.device("cpu"))


def filled(size: int = 5) -> BatchState:
    """Every row full of its own number plus one."""
    state = make_state(size)
    for tensor in state._tensors():
        for row in range(size):
            tensor[row] = row + 1
    return state


def row_of(state: BatchState, slot: int) -> list[Tensor]:
    return [tensor[slot] for tensor in state._tensors()]


def same(rows: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(rows, others, strict=True))


def test_new_rows_are_idle_and_stand_in_the_block_of_nobody() -> None:
    state = make_state()
    assert state.status.eq(Status.IDLE).all()
    assert not state.block_tables.any()
    assert not state.positions.any()


def test_slices_are_views_of_the_same_memory() -> None:
    state = make_state()
    part = state.rows(1, 3)
    part.step.fill_(7)
    assert state.step.tolist() == [0, 7, 7, 0, 0]
    for view, whole in zip(part._tensors(), state._tensors(), strict=True):
        assert view.data_ptr() == whole[1].data_ptr()


def test_a_copy_of_a_row_outlives_the_row() -> None:
    state = filled()
    copy = state.copy_row(3)
    state.clear_row(3)
    state.write_row(0, copy)
    assert same(row_of(state, 0), row_of(filled(), 3))


def test_writing_and_clearing_touch_one_row_only() -> None:
    state = filled()
    state.write_row(1, state.copy_row(4))
    state.clear_row(4)
    for slot in (0, 2, 3):
        assert same(row_of(state, slot), row_of(filled(), slot))
    assert same(row_of(state, 1), row_of(filled(), 4))


def test_a_cleared_row_is_idle_and_could_be_sampled_without_harm() -> None:
    state = filled()
    state.clear_row(2)
    assert state.status[2] == Status.IDLE
    assert not state.block_tables[2].any()
    assert (state.temperature[2], state.top_p[2], state.top_k[2]) == (1, 1, 1)

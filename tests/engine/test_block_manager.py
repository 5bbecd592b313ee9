"""Blocks are neither lost nor owned twice, and known prefixes are found again, but only true ones."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.engine.block_manager import BlockManager, prefix_keys
from stentor.engine.sequence import Sequence
from tests.engine.accounting import check_blocks, make_sequence

SIZE = 4


def admit(blocks: BlockManager, sequence: Sequence) -> Sequence:
    assert blocks.allocate(sequence)
    blocks.publish(sequence)
    return sequence


def test_a_prompt_gets_room_for_itself_and_its_first_row() -> None:
    for positions, wanted in ((1, 1), (3, 1), (4, 2), (5, 2), (7, 2), (8, 3)):
        blocks = BlockManager(10, SIZE)
        sequence = admit(blocks, make_sequence("s", positions))
        assert len(sequence.blocks) == wanted
        assert 0 not in sequence.blocks


def test_too_few_blocks_grant_nothing() -> None:
    blocks = BlockManager(4, SIZE)
    first = admit(blocks, make_sequence("a", 5))
    second = make_sequence("b", 5, voice=1)
    assert not blocks.allocate(second)
    assert second.blocks == []
    check_blocks(blocks, [first, second])


def test_a_kept_prefix_cannot_be_shared_and_given_away_at_once() -> None:
    blocks = BlockManager(4, SIZE)
    blocks.free(admit(blocks, make_sequence("a", 9)))
    second = make_sequence("b", 13)
    assert not blocks.allocate(second)
    check_blocks(blocks, [second])
    assert admit(blocks, make_sequence("c", 9)).num_cached == 2 * SIZE


def test_a_known_prefix_is_shared_but_never_the_last_position() -> None:
    for positions, shared in ((4, 0), (5, 1), (8, 1), (9, 2), (11, 2)):
        blocks = BlockManager(20, SIZE)
        first = admit(blocks, make_sequence("a", positions))
        second = admit(blocks, make_sequence("b", positions))
        assert second.num_cached == shared * SIZE
        assert second.blocks[:shared] == first.blocks[:shared]
        assert not set(second.blocks[shared:]) & set(first.blocks)


def test_shared_blocks_live_until_their_last_owner_leaves() -> None:
    blocks = BlockManager(20, SIZE)
    first, second = admit(blocks, make_sequence("a", 9)), admit(blocks, make_sequence("b", 9))
    shared = set(first.blocks) & set(second.blocks)
    blocks.free(first)
    check_blocks(blocks, [second])
    assert shared <= set(blocks._owners)
    blocks.free(second)
    check_blocks(blocks, [])
    assert shared <= set(blocks._kept)


def test_two_voices_never_share() -> None:
    blocks = BlockManager(50, SIZE)
    prompt = np.zeros((20, 9), dtype=np.int32)
    prompt[4:16, 0] = -1
    prompt[4:16, 1:] = np.random.default_rng(0).integers(0, 1024, (12, 8))
    other = prompt.copy()
    other[5, 8] += 1
    admit(blocks, make_sequence("a", prompt))
    assert admit(blocks, make_sequence("b", other)).num_cached == SIZE
    assert admit(blocks, make_sequence("c", prompt.copy())).num_cached == 16


def test_a_code_is_not_taken_for_a_text_id() -> None:
    text, rows = np.zeros((4, 9), dtype=np.int32), np.zeros((4, 9), dtype=np.int32)
    rows[:, 0] = -1
    assert prefix_keys(text, SIZE) != prefix_keys(rows, SIZE)


def test_equal_blocks_behind_different_beginnings_are_different() -> None:
    one, other = np.zeros((8, 9), dtype=np.int32), np.zeros((8, 9), dtype=np.int32)
    other[0, 0] = 1
    assert not set(prefix_keys(one, SIZE)) & set(prefix_keys(other, SIZE))


def test_only_prefilled_blocks_are_found() -> None:
    blocks = BlockManager(20, SIZE)
    assert blocks.allocate(make_sequence("a", 9))
    assert admit(blocks, make_sequence("b", 9)).num_cached == 0


def test_without_prefix_caching_nothing_is_shared_or_kept() -> None:
    blocks = BlockManager(20, SIZE, prefix_caching=False)
    first, second = admit(blocks, make_sequence("a", 9)), admit(blocks, make_sequence("b", 9))
    assert not set(first.blocks) & set(second.blocks)
    blocks.free(first)
    blocks.free(second)
    assert len(blocks._free) == 19


def test_kept_blocks_go_when_memory_is_short_the_longest_unused_first() -> None:
    blocks = BlockManager(9, SIZE)
    for voice in (1, 2):
        blocks.free(admit(blocks, make_sequence("s", 9, voice=voice)))
    blocks.free(admit(blocks, make_sequence("again", 9, voice=1)))
    large = admit(blocks, make_sequence("large", 21, voice=3))
    check_blocks(blocks, [large])
    blocks.free(large)
    assert admit(blocks, make_sequence("new", 9, voice=1)).num_cached == 2 * SIZE
    assert admit(blocks, make_sequence("gone", 9, voice=2)).num_cached == 0


def test_the_end_of_a_kept_prefix_goes_before_its_beginning() -> None:
    blocks = BlockManager(5, SIZE)
    blocks.free(admit(blocks, make_sequence("a", 13)))
    blocks.free(admit(blocks, make_sequence("b", 5, voice=1)))
    assert admit(blocks, make_sequence("again", 13)).num_cached == 2 * SIZE


def test_a_saved_sequence_takes_no_shared_blocks() -> None:
    blocks = BlockManager(20, SIZE)
    first = admit(blocks, make_sequence("a", 9))
    back = make_sequence("b", 9)
    back.saved = "its own numbers"
    assert blocks.allocate(back)
    assert back.num_cached == 0
    assert not set(back.blocks) & set(first.blocks)


def test_a_sequence_grows_by_a_block_at_a_time_while_there_are_any() -> None:
    blocks = BlockManager(4, SIZE)
    sequence = admit(blocks, make_sequence("s", 3))
    assert blocks.extend(sequence)
    assert blocks.extend(sequence)
    assert len(set(sequence.blocks)) == 3
    assert not blocks.extend(sequence)
    assert len(sequence.blocks) == 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 24), st.integers(0, 2)), max_size=60))
def test_no_block_is_ever_lost_or_owned_twice(moves: list[tuple[int, int, int]]) -> None:
    blocks = BlockManager(12, SIZE)
    alive: list[Sequence] = []
    for kind, number, voice in moves:
        if kind < 4:
            sequence = make_sequence("s", number, voice=voice)
            if blocks.allocate(sequence):
                alive.append(sequence)
                if kind < 3:
                    blocks.publish(sequence)
        elif alive and kind < 7:
            grown = alive[number % len(alive)]
            if grown.num_rows < 40 and blocks.extend(grown):
                grown.append(np.zeros(8, dtype=np.int64))
        elif alive:
            blocks.free(alive.pop(number % len(alive)))
        check_blocks(blocks, alive)
    for sequence in alive:
        blocks.free(sequence)
    check_blocks(blocks, [])
    assert blocks.num_available == 11

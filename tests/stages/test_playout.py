import numpy as np
import pytest

from stentor.request import SpeechRequest
from stentor.stages.playout import ChunkRules, Stream

FRAME_S = 0.04
RULES = ChunkRules(
    context_frames=10, lookahead_frames=10, frame_s=FRAME_S, initial_frames=2, max_chunk_frames=50
)


def stream(*, streaming: bool = True, initial_frames: int | None = None) -> Stream:
    return Stream(SpeechRequest("r", "hello", stream=streaming, initial_chunk_frames=initial_frames), RULES)


def feed(target: Stream, frames: int, now_s: float, *, ended: bool = False) -> None:
    target.append(np.zeros((frames, 8), np.uint16), now_s, ended=ended)


def emit(target: Stream, now_s: float, round_s: float = 0.0) -> int:
    chunk = target.next_chunk(now_s, round_s)
    assert chunk is not None
    target.emitted(chunk, now_s)
    return chunk


def test_the_first_chunk_is_due_as_soon_as_it_is_exact() -> None:
    new = stream()
    feed(new, 11, 0.0)
    assert new.next_chunk(0.0, 0.0) is None
    feed(new, 1, 0.0)
    assert emit(new, 0.0) == 2


def test_nothing_is_due_while_the_listener_is_well_ahead() -> None:
    ahead = stream(initial_frames=20)
    feed(ahead, 30, 0.0)
    assert emit(ahead, 0.0) == 20
    feed(ahead, 39, 0.1)
    assert ahead.next_chunk(0.2, 0.01) is None


def test_chunks_double_up_to_the_longest_while_frames_come_fast() -> None:
    fast = stream()
    chunks, now_s = [], 0.0
    for _ in range(400):
        now_s += FRAME_S / 20
        feed(fast, 1, now_s)
        if fast.next_chunk(now_s, 0.0) is not None:
            chunks.append(emit(fast, now_s))
    assert chunks[:7] == [2, 4, 8, 16, 32, 50, 50]


def test_what_there_is_goes_out_before_the_listener_runs_dry() -> None:
    slow = stream(initial_frames=8)
    feed(slow, 18, 0.0)
    emit(slow, 0.0)
    feed(slow, 3, 0.1)
    dry_at_s, round_s = 8 * FRAME_S, 0.02
    assert slow.next_chunk(dry_at_s - 0.2, round_s) is None
    assert slow.next_chunk(dry_at_s - 2 * round_s, round_s) == 2


def test_the_slower_the_decoding_the_earlier_it_starts() -> None:
    for round_s, due in ((0.01, False), (0.155, True)):
        waiting = stream(initial_frames=8)
        feed(waiting, 18, 0.0)
        emit(waiting, 0.0)
        feed(waiting, 4, 0.08)
        assert (waiting.next_chunk(0.08, round_s) is not None) is due


def test_no_chunk_plays_for_less_than_its_round_takes() -> None:
    """Otherwise each round of decoding would leave the listener with less than before."""
    waiting = stream(initial_frames=2)
    feed(waiting, 12, 0.0)
    emit(waiting, 0.0)
    for arrived, due in ((1, False), (2, False), (3, True)):
        feed(waiting, 1, 0.08)
        assert (waiting.next_chunk(0.08, 2.5 * FRAME_S) is not None) is due, arrived


def test_under_load_the_first_chunk_lasts_until_the_second() -> None:
    busy = stream()
    for number in range(40):
        feed(busy, 1, number * FRAME_S / 2)
        if chunk := busy.next_chunk(number * FRAME_S / 2, 3 * FRAME_S):
            break
    # Three frames at half a frame's time each and one and a half rounds of three.
    assert 1.5 + 4.5 <= chunk <= 8


def test_an_asked_for_first_chunk_is_just_that() -> None:
    asked = stream(initial_frames=1)
    feed(asked, 11, 0.0)
    assert asked.next_chunk(0.0, 10.0) == 1


def test_a_chunk_that_comes_too_late_is_an_underrun_and_the_clock_waits_for_it() -> None:
    late = stream()
    feed(late, 12, 0.0)
    emit(late, 0.0)
    feed(late, 4, 1.0)
    assert late.emitted(4, 1.0)
    assert late.dry_at_s == pytest.approx(1.0 + 4 * FRAME_S)


def test_a_chunk_in_time_is_none() -> None:
    punctual = stream()
    feed(punctual, 16, 0.0)
    assert not punctual.emitted(2, 0.0)
    assert not punctual.emitted(4, 2 * FRAME_S)
    assert punctual.dry_at_s == pytest.approx(6 * FRAME_S)


def test_the_end_flushes_what_had_no_right_context() -> None:
    ending = stream()
    feed(ending, 12, 0.0)
    emit(ending, 0.0)
    feed(ending, 0, 0.0, ended=True)
    assert (emit(ending, 0.0), ending.num_pending) == (10, 0)


def test_windows_have_context_but_not_beyond_the_ends() -> None:
    whole = stream()
    feed(whole, 100, 0.0, ended=True)
    shapes = []
    while whole.num_pending:
        codes, skipped = whole.window(emit_size := whole.next_chunk(0.0, 0.0) or 0)
        shapes.append((len(codes), skipped))
        whole.emitted(emit_size, 0.0)
    assert shapes == [(60, 0), (60, 10)]


def test_without_a_listener_nothing_is_due_before_the_end() -> None:
    whole = stream(streaming=False)
    feed(whole, 500, 0.0)
    assert whole.next_chunk(100.0, 1.0) is None
    feed(whole, 1, 100.0, ended=True)
    assert whole.next_chunk(100.0, 1.0) == 501


def test_deadlines_put_dry_listeners_before_new_ones_before_files() -> None:
    running, new, file = stream(), stream(), stream(streaming=False)
    feed(running, 12, 0.0)
    emit(running, 0.0)
    feed(new, 12, 0.0)
    feed(file, 12, 0.0, ended=True)
    assert running.deadline_s < new.deadline_s < file.deadline_s
    assert new.deadline_s < 1.0 + FRAME_S


@pytest.mark.parametrize(
    ("frames", "rung"), [(0, 0), (1, 1), (3, 2), (31, 16), (49, 32), (50, 50), (999, 50)]
)
def test_chunk_sizes_are_few(frames: int, rung: int) -> None:
    assert RULES.rung(frames) == rung

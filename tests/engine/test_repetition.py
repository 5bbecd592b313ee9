"""The repetition penalty lowers the codes of a codebook's last rows for whoever asked; others pay nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from stentor.engine.model import LMShape, Redraw
from stentor.engine.repetition import penalise, redraw
from stentor.engine.sampler import advance, choose_advance
from stentor.engine.state import RECENT_ROWS, BatchState, Status
from stentor.request import SamplingParams
from tests.checkpoints import Recipe
from tests.engine.harness import Rig, make_lm, make_sequence
from tests.engine.oracle import BEGIN, END, NUM_CODEBOOKS, VOCAB, Oracle, penalised, random_prompt
from tests.engine.test_engine import SMALL
from tests.engine.test_step import Stage

SHAPE = LMShape(NUM_CODEBOOKS, VOCAB, BEGIN, END, 1, 1, 2, 4096, torch.float32)
PENALTIES = [1.0, 1.3, 2.0, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_those_of_the_plain_recipe_in_every_step(dtype: torch.dtype) -> None:
    generator = np.random.default_rng(1)
    state = BatchState.allocate(len(PENALTIES), NUM_CODEBOOKS, 1, torch.device("cpu"))
    state.status[:] = Status.RUNNING
    state.repetition_penalty[:] = torch.tensor(PENALTIES)
    # Few codes, so that they come again, and those that are no speech among them.
    drawn = generator.choice([0, 1, 5, 7, 1023, BEGIN, END], (40, len(PENALTIES), NUM_CODEBOOKS))
    for step in range(1, 40):
        state.step[:] = step
        state.last_rows[:] = torch.from_numpy(drawn[step - 1])
        logits = torch.from_numpy(generator.normal(size=(len(PENALTIES), NUM_CODEBOOKS, VOCAB))).to(dtype)
        scores = penalise(logits, state, SHAPE)
        for row, penalty in enumerate(PENALTIES):
            plain = penalised(logits[row].float().numpy(), drawn[:step, row], penalty)
            assert np.array_equal(scores[row].numpy(), plain.astype(np.float32))


@pytest.mark.parametrize("penalty", [1.5, 0.7])
@pytest.mark.parametrize("seed", [None, 2**33 + 5])
def test_rows_equal_those_of_the_uncached_model_with_a_penalty(penalty: float, seed: int | None) -> None:
    given = [random_prompt(SMALL, 5, text=20), random_prompt(SMALL, 6, text=9, reference=12)]
    sampling = SamplingParams(0.0 if seed is None else 1.0, 1.0, 0, seed or 0, None, penalty)
    sequences = [make_sequence(f"s{i}", prompt, sampling, 80) for i, prompt in enumerate(given)]
    # Beside them runs one that asks for nothing.
    plain = make_sequence("plain", given[0], replace(sampling, repetition_penalty=None), 80)
    stories = Rig(make_lm(SMALL)).run([*sequences, plain])
    oracle = Oracle(SMALL, dtype=torch.float64)
    for i, prompt in enumerate(given):
        rows = stories[f"s{i}"].rows
        judged = oracle.continuation(prompt, rows, seed, tolerance=1e-3, penalty=penalty)
        assert np.array_equal(rows, judged)
    rows = stories["plain"].rows
    assert np.array_equal(rows, oracle.continuation(given[0], rows, seed, tolerance=1e-3))
    assert not np.array_equal(rows[: len(stories["s0"].rows)], stories["s0"].rows[: len(rows)])


def test_a_loop_of_one_code_is_broken() -> None:
    def greedy_rows(penalty: float) -> np.ndarray:
        sampling = SamplingParams(0.0, repetition_penalty=penalty)
        model = make_lm(Recipe(seed=3, layers=1, with_codec=False))
        sequence = make_sequence("s", random_prompt(SMALL, 3), sampling, 120)
        rows = Rig(model).run([sequence])["s"].rows
        return rows[NUM_CODEBOOKS:]

    def most_in_a_window(rows: np.ndarray) -> int:
        windows = np.lib.stride_tricks.sliding_window_view(rows[:, 0], RECENT_ROWS)
        return max(int(np.bincount(window).max()) for window in windows)

    looping, broken = greedy_rows(1.0), greedy_rows(2.0)
    assert most_in_a_window(looping) > most_in_a_window(broken)


def test_a_batch_without_a_penalty_does_nothing_for_it() -> None:
    stage = Stage()
    stage.state.recent_rows[:] = 7
    plain = stage.watched(64)
    assert stage.state.recent_rows.eq(7).all()
    assert len(stage.watched(64, penalises=True)) > len(plain)
    assert not stage.state.recent_rows[:5].eq(7).all()


def test_the_runner_asks_for_it_while_someone_does() -> None:
    model = make_lm(SMALL)
    rig = Rig(model)
    prompt = random_prompt(SMALL, 1)
    rig.engine.add(make_sequence("plain", prompt, SamplingParams(0.0), 30))
    rig.engine.add(make_sequence("asks", prompt, SamplingParams(0.0, repetition_penalty=1.2), 10))
    asked = []
    while rig.engine.has_work():
        rig.step()
        asked.append(rig.engine._runner._penalises)
    assert asked[0]
    assert not asked[-1]
    assert asked == sorted(asked, reverse=True)


def again_by_hand(codes: np.ndarray, history: np.ndarray, window: int, limit: int) -> np.ndarray:
    """Which codes [num_codebooks] stand too often in the last rows of a history [num_rows, num_codebooks]."""
    recent = history[-window:]
    return (codes < BEGIN) & ((recent == codes).sum(0) >= limit)


@pytest.mark.parametrize("on_arrays", [True, False])
@pytest.mark.parametrize(("window", "limit"), [(7, 2), (16, 3), (1, 1)])
def test_a_code_that_stands_too_often_in_the_window_is_drawn_again(
    window: int, limit: int, on_arrays: bool
) -> None:
    shape = dataclasses.replace(SHAPE, redraw=Redraw(window, limit))
    generator = np.random.default_rng(window)
    state = BatchState.allocate(3, NUM_CODEBOOKS, 1, torch.device("cpu"))
    state.status[:] = Status.RUNNING
    state.noise_key[:] = torch.tensor([5, 6, 7])
    view = state.arrays if on_arrays else state
    history = generator.choice([0, 1, 5, 7, BEGIN, END], (40, 3, NUM_CODEBOOKS))
    fresh: list[int] = []
    for step in range(1, 40):
        state.step[:] = step
        state.last_rows[:] = torch.from_numpy(history[step - 1])
        codes = generator.choice([0, 1, 5, 7, BEGIN, END], (3, NUM_CODEBOOKS))
        # Only a fresh draw can be one of these.
        logits = torch.full((3, NUM_CODEBOOKS, VOCAB), -1e9)
        logits[..., 100:200] = 0.0
        given = (codes, logits.numpy()) if on_arrays else (torch.from_numpy(codes), logits)
        drawn = np.asarray(redraw(*given, view, shape))
        wanted = np.stack([again_by_hand(codes[i], history[:step, i], window, limit) for i in range(3)])
        assert np.array_equal(drawn != codes, wanted)
        fresh += drawn[wanted].tolist()
    assert min(fresh) >= 100
    assert max(fresh) < 200
    assert len(set(fresh)) > 50


def test_a_first_row_has_nothing_behind_it() -> None:
    shape = dataclasses.replace(SHAPE, redraw=Redraw(7, 1))
    state = BatchState.allocate(1, NUM_CODEBOOKS, 1, torch.device("cpu"))
    codes = torch.zeros(1, NUM_CODEBOOKS, dtype=torch.int64)
    assert torch.equal(redraw(codes, torch.zeros(1, NUM_CODEBOOKS, VOCAB), state, shape), codes)


def test_a_model_that_draws_again_is_not_caught_in_a_loop_of_one_code() -> None:
    logits = torch.zeros(1, NUM_CODEBOOKS, VOCAB)
    logits[..., 3] = 9.0

    def rows(redraws: Redraw | None) -> np.ndarray:
        shape = dataclasses.replace(SHAPE, redraw=redraws)
        state = BatchState.allocate(1, NUM_CODEBOOKS, 1, torch.device("cpu"))
        state.status[:], state.max_rows[:], state.guard_rows[:] = Status.RUNNING, 100, 100
        return np.concatenate([advance(logits, state.arrays, shape, 1)[:, :-1] for _ in range(60)])

    assert set(rows(None)[20:].ravel()) == {3}
    # With 3 at 9 the plain distribution gives another code in 11 of 100 draws.
    assert len(set(rows(Redraw(7, 2))[20:].ravel())) > 10


def test_only_a_model_that_never_draws_again_has_its_sampler_in_one_launch() -> None:
    assert choose_advance("eager", torch.device("cpu"), SHAPE) is advance
    gpu = torch.device("cuda")
    shape = dataclasses.replace(SHAPE, redraw=Redraw(7, 2))
    assert choose_advance("auto", gpu, shape) is advance

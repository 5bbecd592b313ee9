"""Sampling draws from the right set whatever the batch; the state machine is that of the specification."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.engine.model import LMShape
from stentor.engine.noise import stream_key
from stentor.engine.sampler import Draw, advance, most_candidates, sample
from stentor.engine.state import BatchState, Status
from stentor.request import Array, SamplingParams
from tests.engine.oracle import BEGIN, END, NUM_CODEBOOKS, VOCAB, DelayMachine, gumbel_noise

SHAPE = LMShape(NUM_CODEBOOKS, VOCAB, BEGIN, END, 1, 1, 2, 4096, torch.float32)


def make_state(rows: list[SamplingParams], steps: list[int] | None = None) -> tuple[BatchState, int]:
    """Running rows with these parameters, and the candidates of their batch."""
    state = BatchState.allocate(len(rows), NUM_CODEBOOKS, 1, torch.device("cpu"))
    draws = [Draw.of(params, VOCAB) for params in rows]
    for slot, (params, draw) in enumerate(zip(rows, draws, strict=True)):
        state.status[slot] = Status.RUNNING
        state.max_rows[slot] = state.guard_rows[slot] = 10_000
        state.step[slot] = steps[slot] if steps else 0
        state.noise_key[slot] = stream_key(params.seed or 0)
        state.temperature[slot] = draw.temperature
        state.top_p[slot] = draw.top_p
        state.top_k[slot] = draw.top_k
    return state, most_candidates(draws, VOCAB)


def plain_sample(logits: np.ndarray, params: SamplingParams, step: int) -> list[int]:
    """One row's codes from logits [8, 1026], as the order of the cuts is written down."""
    temperature, top_k, top_p = params.temperature or 0.0, params.top_k or VOCAB, params.top_p or 1.0
    if temperature <= 1e-5 or top_k == 1:
        return [int(code) for code in logits.argmax(-1)]
    noise = gumbel_noise(params.seed or 0, step)
    codes = []
    for scores, gumbels in zip(logits / np.float32(temperature), noise, strict=True):
        best = np.argsort(-scores, kind="stable")[:top_k]
        weights = np.exp((scores[best] - scores[best[0]]).astype(np.float64))
        before = np.cumsum(weights) - weights
        allowed = best[before < top_p * weights.sum()] if top_p < 1 else best
        codes.append(int(allowed[(scores[allowed] + gumbels[allowed]).argmax()]))
    return codes


def random_logits(rows: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, NUM_CODEBOOKS, VOCAB, generator=torch.Generator().manual_seed(seed)) * spread


MIXTURE = [
    SamplingParams(0.0, 1.0, 0, 1),
    SamplingParams(1.0, 1.0, 0, 2),
    SamplingParams(0.8, 0.8, 30, 3),
    SamplingParams(0.7, 0.9, 0, 2**63 - 1),
    SamplingParams(1.3, 1.0, 5, 5),
    SamplingParams(2.0, 1.0, 1, 6),
    SamplingParams(0.5, 0.3, 1026, 7),
    SamplingParams(1.0, 1.0, 5000, 8),
    SamplingParams(1.5, 0.01, 64, 9),
    SamplingParams(1.5, 0.99, 65, 10),
]


@pytest.mark.parametrize("spread", [0.05, 1.0, 4.0])
def test_codes_are_those_of_the_plain_recipe(spread: float) -> None:
    logits = random_logits(len(MIXTURE), 0, spread)
    steps = list(range(0, 70, 7))
    state, candidates = make_state(MIXTURE, steps)
    codes = sample(logits, state, candidates)
    for row, params in enumerate(MIXTURE):
        assert codes[row].tolist() == plain_sample(logits[row].numpy(), params, steps[row])


@pytest.mark.parametrize("params", MIXTURE)
def test_a_row_draws_the_same_alone_and_in_any_batch(params: SamplingParams) -> None:
    # Scores of a bfloat16 model: full of ties, also at the edges of the cuts.
    logits = random_logits(len(MIXTURE) + 1, 1, 0.5).bfloat16().float()
    alone = sample(logits[:1], *make_state([params], [3]))
    for size in (2, 4, len(MIXTURE) + 1):
        batch = [params, *MIXTURE[: size - 1]]
        state, candidates = make_state(batch, [3, *range(size - 1)])
        assert torch.equal(sample(logits[:size], state, candidates)[:1], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("candidates", [0, 1, 64, 256, VOCAB])
def test_arrays_and_tensors_draw_the_same(candidates: int, dtype: torch.dtype) -> None:
    rows = [params for params in MIXTURE if Draw.of(params, VOCAB).candidates <= (candidates or 0)]
    rows = rows or [SamplingParams(1.0, 1.0, 0, seed) for seed in range(5)]
    logits = random_logits(len(rows), 6, 0.5).to(dtype)
    state, _ = make_state(rows, list(range(len(rows))))
    twin = BatchState.over(state.packed.clone(), NUM_CODEBOOKS)
    for _ in range(3):
        record = advance(logits, state, SHAPE, candidates)
        assert np.array_equal(advance(logits, twin.arrays, SHAPE, candidates), record.numpy())
        assert torch.equal(twin.packed, state.packed)


def test_a_batch_looks_at_no_more_codes_than_it_must() -> None:
    def candidates(*rows: SamplingParams) -> int:
        return most_candidates([Draw.of(row, VOCAB) for row in rows], VOCAB)

    greedy, free = SamplingParams(temperature=0.0), SamplingParams(1.0, 1.0, 0)
    assert candidates() == candidates(greedy, greedy) == 1
    assert candidates(free, free) == 0
    assert candidates(greedy, SamplingParams(0.8, 0.8, 30)) == 64
    assert candidates(SamplingParams(0.8, 1.0, 64), SamplingParams(0.8, 1.0, 65)) == 256
    assert candidates(greedy, free) == VOCAB
    assert candidates(SamplingParams(0.8, 0.8, 0)) == VOCAB
    assert candidates(SamplingParams(0.8, 1.0, 2000)) == 0


def test_greedy_is_a_cut_to_the_best_code() -> None:
    for params in (
        SamplingParams(0.0),
        SamplingParams(1e-5, 0.5, 50),
        SamplingParams(2.0, 1.0, 1),
        SamplingParams(),
    ):
        assert Draw.of(params, VOCAB) == Draw(1.0, math.inf, 1, 1)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(1.1e-5, 1.0, 0, 1),
        SamplingParams(1e-4, 1.0, 50, 1),
        SamplingParams(1.0, 1e-30, 0, 1),
        SamplingParams(1.0, 1e-300, 50, 1),
    ],
)
def test_extreme_parameters_draw_the_best_code(params: SamplingParams) -> None:
    logits = random_logits(1, 2)
    assert torch.equal(sample(logits, *make_state([params])), logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e30, 1e39, 1e300])
def test_an_endless_temperature_draws_from_all_that_is_allowed(temperature: float) -> None:
    params = SamplingParams(temperature, 1.0, 100, 1)
    logits = random_logits(1, 3)
    codes = sample(logits, *make_state([params]))
    best = logits.topk(100).indices
    assert all(int(code) in best[0, c] for c, code in enumerate(codes[0]))


def test_draws_follow_the_renormalised_probabilities_of_the_cut() -> None:
    scores = torch.full((VOCAB,), -9.0)
    scores[:6] = torch.tensor([3.0, 2.5, 2.0, 1.0, 0.0, -1.0])
    params = SamplingParams(1.0, 0.9, 5, 4)
    size = 600
    state, candidates = make_state([params] * size, list(range(size)))
    logits = scores.expand(size, NUM_CODEBOOKS, VOCAB).contiguous()
    counts = np.bincount(sample(logits, state, candidates).flatten(), minlength=VOCAB)
    probabilities = scores[:5].softmax(-1).numpy()
    kept = int((np.cumsum(probabilities) - probabilities < 0.9).sum())
    assert counts[kept:].sum() == 0
    expected = probabilities[:kept] / probabilities[:kept].sum() * size * NUM_CODEBOOKS
    assert (
        (counts[:kept] - expected) ** 2 / expected
    ).sum() < 16.3  # 3 degrees of freedom, once in a thousand


def drive(codes: list[list[int]], max_rows: int = 10_000, guard_rows: int = 10_000) -> np.ndarray:
    """What `advance` reports when the model wants exactly these codes, one row of eight after the other."""
    state, candidates = make_state([SamplingParams(0.0)])
    state.max_rows[0], state.guard_rows[0] = max_rows, guard_rows
    records = []
    for row in codes:
        logits = torch.nn.functional.one_hot(torch.tensor([row]), VOCAB).float()
        records.append(advance(logits, state, SHAPE, candidates)[0].numpy())
    return np.array(records)


CODES = st.one_of(st.integers(0, 1025), st.just(END), st.just(BEGIN))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(CODES, min_size=8, max_size=8), min_size=1, max_size=40))
def test_the_machine_equals_the_scalar_one(codes: list[list[int]]) -> None:
    records = drive(codes)
    machine = DelayMachine()
    for row, record in zip(codes, records, strict=True):
        if machine.done:
            assert record.tolist() == [-1] * 8 + [Status.STOP]
            continue
        assert record[:-1].tolist() == machine.step(row)
        assert record[-1] == (Status.STOP if machine.done else Status.RUNNING)


@pytest.mark.parametrize("end_row", [8, 9, 20])
def test_the_end_code_gives_as_many_frames_as_rows_before_it(end_row: int) -> None:
    codes = [[5] * 8 for _ in range(end_row)] + [[END] + [5] * 7] + [[5] * 8] * 10
    status = drive(codes)[:, -1].tolist()
    assert status.index(Status.STOP) == end_row + 6


def test_an_end_code_while_the_pattern_opens_is_not_heeded() -> None:
    assert set(drive([[END] * 8] * 8)[:, -1]) == {Status.RUNNING}


@pytest.mark.parametrize(
    ("max_rows", "guard_rows", "reason", "rows"),
    [
        (30, 10_000, Status.LENGTH, 30),
        (10_000, 30, Status.RUNAWAY, 30),
        (30, 30, Status.LENGTH, 30),
        (3, 10_000, Status.LENGTH, 3),
        (1, 1, Status.LENGTH, 1),
        (10_000, 2, Status.RUNAWAY, 2),
    ],
)
def test_the_reason_for_an_early_end_is_told_as_it_was(
    max_rows: int, guard_rows: int, reason: Status, rows: int
) -> None:
    status = drive([[5] * 8] * 40, max_rows, guard_rows)[:, -1].tolist()
    assert status == [Status.RUNNING] * (rows - 1) + [reason] * (41 - rows)


@pytest.mark.parametrize(
    ("max_rows", "guard_rows", "reason", "rows"),
    [
        (27, 10_000, Status.STOP, 27),
        (26, 10_000, Status.LENGTH, 26),
        (10_000, 21, Status.STOP, 27),
        (10_000, 20, Status.RUNAWAY, 20),
        (10_000, 24, Status.STOP, 27),
        (24, 24, Status.LENGTH, 24),
    ],
)
def test_a_wind_down_is_cut_by_the_limit_but_not_by_the_guard(
    max_rows: int, guard_rows: int, reason: Status, rows: int
) -> None:
    codes = [[5] * 8] * 20 + [[END] + [5] * 7] + [[5] * 8] * 20
    status = drive(codes, max_rows, guard_rows)[:, -1].tolist()
    assert status.index(reason) == rows - 1
    assert set(status[: rows - 1]) == {Status.RUNNING}


def test_a_draw_that_runs_out_of_memory_has_moved_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    state, candidates = make_state(MIXTURE[2:6], [9] * 4)
    before, where, logits = state.packed.clone(), np.where, random_logits(4, 5)
    for room in range(20):
        left = iter(range(room))

        def cramped(*values: Array, left: Iterator[int] = left) -> Array:
            if next(left, None) is None:
                raise MemoryError
            return where(*values)

        monkeypatch.setattr(np, "where", cramped)
        try:
            advance(logits, state.arrays, SHAPE, candidates)
        except MemoryError:
            assert torch.equal(state.packed, before)
        else:
            break
    assert 0 < room < 19
    assert not torch.equal(state.packed, before)


def test_idle_and_ended_rows_stay_as_they_are() -> None:
    state, candidates = make_state(MIXTURE[2:6], [9] * 4)
    state.status[1], state.status[3] = Status.IDLE, Status.LENGTH
    before = state.packed.clone()
    record = advance(random_logits(4, 5), state, SHAPE, candidates)
    assert torch.equal(state.packed[[1, 3]], before[[1, 3]])
    assert not torch.equal(state.packed[[0, 2]], before[[0, 2]])
    assert record[[1, 3], :-1].eq(-1).all()
    assert record[:, -1].tolist() == [Status.RUNNING, Status.IDLE, Status.RUNNING, Status.LENGTH]
    assert record[[0, 2], :-1].ge(0).all()

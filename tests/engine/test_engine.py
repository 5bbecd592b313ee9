"""The engine draws what an uncached model would draw, for every sequence, whatever happens around it."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from itertools import cycle, product
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from stentor.config import EngineConfig
from stentor.engine.engine import Engine
from stentor.engine.prefill import PrefillShape
from stentor.engine.scheduler import Chunk
from stentor.engine.sequence import Sequence
from stentor.engine.state import BatchState, Status
from stentor.request import FinishReason, SamplingParams
from tests.checkpoints import Recipe
from tests.engine.harness import Rig, Story, content_rows, make_lm, make_sequence
from tests.engine.oracle import END, Oracle, greedy, random_prompt

ROWS = 200
SMALL = Recipe(seed=1, with_codec=False)
RECIPES = {
    "grouped": SMALL,
    "wide": Recipe(seed=2, hidden=32, heads=6, kv_heads=1, head_dim=24, intermediate=64, with_codec=False),
    "plain": Recipe(seed=3, hidden=64, layers=1, heads=8, kv_heads=8, head_dim=8, with_codec=False),
}
SAMPLINGS = [
    SamplingParams(0.0, 1.0, 0, 0),
    SamplingParams(1.0, 1.0, 0, 2**40 + 5),
    SamplingParams(0.8, 0.8, 30, 7),
    SamplingParams(1.2, 0.9, 0, 8),
    SamplingParams(0.7, 1.0, 50, 9, None, 1.4),
]
# Sixteen prompts of which four begin with the same voice.
LENGTHS = [
    (1, 0),
    (2, 0),
    (5, 3),
    (16, 0),
    (17, 12),
    (30, 0),
    (33, 40),
    (64, 0),
    (20, 90),
    (3, 1),
    (47, 0),
    (9, 9),
]


def prompts(recipe: Recipe) -> list[np.ndarray]:
    voice = random_prompt(recipe, 99, text=8, reference=60)
    known = [np.concatenate((voice, random_prompt(recipe, 50 + i, text=4 + 7 * i))) for i in range(4)]
    return [random_prompt(recipe, i, text, codes) for i, (text, codes) in enumerate(LENGTHS)] + known


def sampled(recipe: Recipe, max_rows: int) -> list[Sequence]:
    return [
        make_sequence(f"s{i}", prompt, replace_seed(sampling, i), max_rows - i)
        for i, (prompt, sampling) in enumerate(zip(prompts(recipe), cycle(SAMPLINGS), strict=False))
    ]


@cache
def together() -> dict[str, Story]:
    """What they say as one batch; read only."""
    return Rig(make_lm(SMALL)).run(sampled(SMALL, 24))


def replace_seed(sampling: SamplingParams, i: int) -> SamplingParams:
    return msgspec.structs.replace(sampling, seed=(sampling.seed or 0) + i)


def assert_same(stories: dict[str, Story], expected: dict[str, Story]) -> None:
    assert {name for name, story in stories.items() if not story.same(expected[name])} == set()
    assert stories.keys() == expected.keys()


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [("grouped", torch.float64, 1e-4), *((name, torch.float32, 1e-3) for name in RECIPES)],
)
def test_greedy_rows_equal_those_of_the_uncached_model(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    recipe, given = RECIPES[name], prompts(RECIPES[name])
    rig = Rig(make_lm(recipe, dtype), max_running_requests=16)
    stories = rig.run([greedy(f"s{i}", p, ROWS) for i, p in enumerate(given)], arrivals=range(0, 64, 4))
    oracle = Oracle(recipe, dtype=torch.float64)
    for i, prompt in enumerate(given):
        rows = stories[f"s{i}"].rows
        assert np.array_equal(rows, oracle.continuation(prompt, rows, tolerance=tolerance))
    assert sum(len(story.rows) == ROWS for story in stories.values()) >= 12
    assert rig.engine.stats()["prefix_cached_tokens"] >= 3 * 64


def test_judging_rows_in_one_pass_equals_generating_them() -> None:
    oracle, prompt = Oracle(SMALL, dtype=torch.float64), random_prompt(SMALL, 5, text=9, reference=4)
    for seeds in (None, [123]):
        (rows,) = oracle.generate([prompt], 40, seeds)
        seed = seeds[0] if seeds else None
        assert np.array_equal(oracle.continuation(prompt, rows, seed), rows)
        rows[20, 3] = (rows[20, 3] + 1) % 1024
        assert not np.array_equal(oracle.continuation(prompt, rows, seed), rows)


def test_seeded_rows_equal_those_of_the_uncached_model() -> None:
    given = prompts(SMALL)[:8]
    sequences = [
        make_sequence(f"s{i}", prompt, SamplingParams(1.0, 1.0, 0, 2**33 * i + 5), 80)
        for i, prompt in enumerate(given)
    ]
    stories = Rig(make_lm(SMALL), max_running_requests=5).run(sequences)
    oracle = Oracle(SMALL, dtype=torch.float64)
    for i, prompt in enumerate(given):
        rows = stories[f"s{i}"].rows
        assert np.array_equal(rows, oracle.continuation(prompt, rows, 2**33 * i + 5, tolerance=1e-3))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["grouped", "wide"])
def test_a_seed_gives_the_same_scores_and_rows_in_any_company(name: str, dtype: torch.dtype) -> None:
    recipe, max_rows = RECIPES[name], 22
    model = make_lm(recipe, dtype)
    alone: dict[str, Story] = {}
    for sequence in sampled(recipe, max_rows):
        alone |= Rig(model, prefix_caching=False).run([sequence])

    batch = Rig(model, prefix_caching=False).run(sampled(recipe, max_rows), arrivals=range(0, 32, 2))
    assert_same(batch, alone)

    known = Rig(model, max_prefill_tokens=100)
    assert_same(known.run(reversed(sampled(recipe, max_rows)), arrivals=range(0, 32, 2)), alone)
    assert known.engine.stats()["prefix_cached_tokens"] >= 3 * 64

    crowded = Rig(model, max_context=256, kv_cache_bytes=20 * 16 * model.shape.position_bytes)
    assert_same(crowded.run(sampled(recipe, max_rows)), alone)
    assert crowded.engine.stats()["preemptions"] > 0

    odd = Rig(model, block_size=5, max_running_requests=3)
    assert_same(odd.run(sampled(recipe, max_rows)), alone)

    settings = {"max_context": 256, "kv_cache_bytes": 20 * 16 * model.shape.position_bytes}
    late = Rig(model, overlap="on", max_prefill_tokens=70, **settings)
    assert_same(late.run(sampled(recipe, max_rows), arrivals=range(0, 32, 2)), alone)
    assert late.engine.stats()["preemptions"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_long_prompt_gives_the_same_scores_behind_a_known_prefix_and_in_a_batch(dtype: torch.dtype) -> None:
    recipe = replace(SMALL, heads=8)
    model = make_lm(recipe, dtype)
    long = random_prompt(recipe, 1, text=300, reference=500)
    other = np.concatenate((long[:700], random_prompt(recipe, 2, text=333)))
    sequences = {
        "long": make_sequence("long", long, SAMPLINGS[2], 20),
        "other": make_sequence("other", other, SAMPLINGS[2], 20),
        "short": make_sequence("short", long[:40], SAMPLINGS[2], 20),
    }
    alone: dict[str, Story] = {}
    for sequence in sequences.values():
        alone |= Rig(model, max_context=1200).run([replace(sequence)])
    rig = Rig(model, max_context=1200)
    assert_same(rig.run(list(sequences.values()), arrivals=[0, 5, 9]), alone)
    assert rig.engine.stats()["prefix_cached_tokens"] == 43 * 16 + 2 * 16


def test_a_long_prompt_in_pieces_gives_the_same_scores_and_stalls_nobody() -> None:
    model = make_lm(SMALL)
    long = make_sequence("long", random_prompt(SMALL, 1, text=300, reference=100), SAMPLINGS[2], 20)
    short = make_sequence("short", random_prompt(SMALL, 2, text=10), SAMPLINGS[1], 40)
    alone: dict[str, Story] = {}
    for sequence in (long, short):
        alone |= Rig(model).run([replace(sequence)])
    rig = Rig(model, max_prefill_tokens=128)
    rig.engine.add(short)
    rig.step()
    rig.engine.add(long)
    for rows in range(2, 6):
        rig.step()
        assert (short.num_rows, long.num_rows) == (rows, int(rows == 5))
    assert_same(rig.run([]), alone)
    assert rig.engine.stats()["prefill_tokens"] == 410


def test_what_overlaps_is_read_one_step_late_and_not_at_all_after_an_abort() -> None:
    engine = Engine(make_lm(SMALL), EngineConfig(max_context=256, overlap="on"))
    for name in "abc":
        engine.add(greedy(name, random_prompt(SMALL, 1, text=20), 6))
    assert engine.step() == []
    assert [output.sequence.id for output in engine.step()] == ["a", "b", "c"]
    engine.abort("a")
    assert engine.stats()["sequences_running"] == 2
    assert [output.sequence.id for output in engine.step()] == ["b", "c"]
    rest = [engine.step() for _ in range(4)]
    assert [[output.finish_reason for output in outputs] for outputs in rest] == [
        *[[None, None]] * 3,
        [FinishReason.LENGTH] * 2,
    ]
    # One more step was under way when the last rows were read.
    assert engine.has_work()
    assert engine.step() == []
    assert not engine.has_work()


def test_frames_are_the_diagonals_of_the_rows_until_the_content_ends() -> None:
    recipe = replace(SMALL, eoc_gain=3.0)
    stories = Rig(make_lm(recipe)).run(greedy(f"s{i}", p, 200) for i, p in enumerate(prompts(recipe)))
    reasons = {story.reason for story in stories.values()}
    assert FinishReason.STOP in reasons
    for story in stories.values():
        frames = np.concatenate(story.frames)
        expected = [[story.rows[f + c, c] for c in range(8)] for f in range(content_rows(story.rows))]
        assert frames.tolist() == expected
        if story.reason == FinishReason.STOP:
            assert (story.rows[-1, :7] == END).all()
        else:
            assert (story.reason, len(story.rows)) == (FinishReason.LENGTH, 200)


def test_the_runaway_guard_cuts_and_says_so() -> None:
    sequences = [
        greedy("guarded", random_prompt(SMALL, 0), 100, 40),
        greedy("free", random_prompt(SMALL, 0), 100),
    ]
    stories = Rig(make_lm(SMALL)).run(sequences)
    assert (stories["guarded"].reason, len(stories["guarded"].rows)) == (FinishReason.RUNAWAY, 40)
    assert (stories["free"].reason, len(stories["free"].rows)) == (FinishReason.LENGTH, 100)
    assert np.array_equal(stories["guarded"].rows, stories["free"].rows[:40])


def test_no_legal_sampling_stops_the_engine() -> None:
    extremes = [
        SamplingParams(1e300, 1.0, 0, 2**63 - 1),
        SamplingParams(5e-324, 5e-324, 2**60, 0),
        SamplingParams(1.0, 5e-324, 2**60, 0),
        SamplingParams(1e-4, 1.0, 2, 2**32),
    ]
    sequences = [
        make_sequence(f"s{i}", random_prompt(SMALL, i), params, 12) for i, params in enumerate(extremes)
    ]
    stories = Rig(make_lm(SMALL)).run(sequences)
    assert {len(story.rows) for story in stories.values()} == {12}


def test_a_sequence_may_fill_the_context_and_the_cache_to_the_last_position() -> None:
    model = make_lm(SMALL)
    for prompt_length, overlap in product((1, 15, 16, 17, 47, 63), ("on", "off")):
        rig = Rig(model, max_context=64, overlap=overlap, kv_cache_bytes=5 * 16 * model.shape.position_bytes)
        story = rig.run([greedy("s", random_prompt(SMALL, 1, text=prompt_length), 64 - prompt_length)])["s"]
        assert len(story.rows) == 64 - prompt_length


def test_an_abort_frees_the_blocks_at_once_wherever_the_sequence_is() -> None:
    model = make_lm(SMALL)
    rig = Rig(
        model, max_context=128, kv_cache_bytes=9 * 16 * model.shape.position_bytes, max_running_requests=3
    )
    for i in range(5):
        rig.engine.add(greedy(f"s{i}", random_prompt(SMALL, i, text=20), 90))
    while not rig.engine.stats()["preemptions"]:
        rig.step()
    scheduler = rig.engine._scheduler
    preempted = next(sequence for sequence in scheduler.waiting if sequence.saved)
    fresh = next(sequence for sequence in scheduler.waiting if not sequence.saved)
    gone: set[str] = set()
    for sequence in (fresh, preempted, scheduler.running[0]):
        used = rig.engine.stats()["kv_blocks_used"]
        held = len(sequence.blocks)
        rig.engine.abort(sequence.id)
        rig.audit()
        assert rig.engine.stats()["kv_blocks_used"] == used - held
        assert sequence not in (*scheduler.running, *scheduler.waiting)
        rig.engine.abort(sequence.id)
        gone.add(sequence.id)
    rig.engine.abort("nobody")
    assert preempted.num_rows > 0
    stories = rig.run([])
    assert {name for name, story in stories.items() if story.reason} == {f"s{i}" for i in range(5)} - gone


@pytest.mark.parametrize("overlap", ["on", "off"])
@pytest.mark.parametrize("seed", range(3))
def test_random_adds_and_aborts_lose_no_block_and_forget_nobody(seed: int, overlap: str) -> None:
    rng = np.random.default_rng(seed)
    recipe = Recipe(seed=4, hidden=32, layers=1, heads=2, kv_heads=1, head_dim=8, eoc_gain=3.0)
    model = make_lm(recipe)
    rig = Rig(
        model,
        max_context=96,
        block_size=8,
        max_running_requests=5,
        kv_cache_bytes=20 * 8 * model.shape.position_bytes,
        prefix_caching=bool(seed),
        max_prefill_tokens=512 if seed == 1 else 20,
        overlap=overlap,
    )
    voice = random_prompt(recipe, 0, text=40)
    aborted: set[str] = set()
    for number in range(160):
        if number < 100 and rng.random() < 0.6:
            prompt = np.concatenate((voice[: rng.integers(0, 41)], random_prompt(recipe, number, text=5)))
            sampling = replace_seed(SAMPLINGS[number % 5], number)
            rig.engine.add(make_sequence(f"s{number}", prompt, sampling, int(rng.integers(1, 50))))
        scheduler = rig.engine._scheduler
        alive = [sequence.id for sequence in (*scheduler.running, *scheduler.waiting)]
        if alive and rng.random() < 0.25:
            victim = str(rng.choice(alive))
            aborted.add(victim)
            rig.engine.abort(victim)
            rig.audit()
        rig.step()
    stories = rig.run([])
    assert {name for name, story in stories.items() if story.reason is None} <= aborted
    assert rig.engine.stats()["preemptions"] > 0
    assert rig.engine._blocks.num_available == rig.engine._blocks.num_blocks - 1


def failed(engine: Engine, sequences: Iterable[Sequence]) -> set[str]:
    """Runs all to their ends; whose was an error."""
    for sequence in sequences:
        engine.add(sequence)
    found: set[str] = set()
    while engine.has_work():
        found |= {output.sequence.id for output in engine.step() if output.error}
    return found


def test_a_prompt_without_memory_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_lm(SMALL)
    names = ["a", "huge", "b", "vast", "c"]
    sequences = {name: greedy(name, random_prompt(SMALL, i, text=20), 12) for i, name in enumerate(names)}
    alone: dict[str, Story] = {}
    for name in "abc":
        alone |= Rig(model).run([replace(sequences[name])])
    engine = Engine(model, EngineConfig(max_context=256))
    prefill = engine._runner.prefill

    def crowded(chunks: list[Chunk], *how: int) -> None:
        if {chunk.sequence.id for chunk in chunks} & {"huge", "vast"}:
            raise torch.OutOfMemoryError
        prefill(chunks, *how)

    monkeypatch.setattr(engine._runner, "prefill", crowded)
    for sequence in sequences.values():
        engine.add(sequence)
    outputs = engine.step()
    errors = {output.sequence.id: output.error for output in outputs if output.error}
    assert errors.keys() == {"huge", "vast"}
    assert "no memory for a sequence of 20 positions" in str(errors["huge"])
    while engine.has_work():
        engine.step()
    for name in "abc":
        assert np.array_equal(sequences[name].rows[:12], alone[name].rows)
    assert engine.stats()["kv_blocks_used"] == 0


@pytest.mark.parametrize("overlap", ["on", "off"])
@pytest.mark.parametrize("room", [1, 2, 3])
def test_a_step_without_memory_is_done_in_parts_and_changes_no_code(
    room: int, overlap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_lm(SMALL)
    expected = together()
    rig = Rig(model, overlap=overlap)
    decode = rig.engine._runner.decode

    def cramped(start: int, end: int, *how: int) -> None:
        if end - start > room:
            raise torch.OutOfMemoryError
        decode(start, end, *how)

    monkeypatch.setattr(rig.engine._runner, "decode", cramped)
    stories = rig.run(sampled(SMALL, 24))
    assert all(story.same(expected[name]) for name, story in stories.items())


@pytest.mark.parametrize("overlap", ["on", "off"])
def test_only_a_sequence_that_has_no_memory_alone_fails(
    overlap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_lm(SMALL)
    expected = together()
    engine = Engine(model, EngineConfig(max_context=512, overlap=overlap))
    decode, sequences = engine._runner.decode, {sequence.id: sequence for sequence in sampled(SMALL, 24)}
    starving = list(sequences.values())[4]

    def cramped(start: int, end: int, *how: int) -> None:
        if starving in engine._scheduler.running[start:end] and starving.num_rows >= 3:
            raise torch.OutOfMemoryError
        decode(start, end, *how)

    monkeypatch.setattr(engine._runner, "decode", cramped)
    assert failed(engine, sequences.values()) == {starving.id}
    assert engine.stats()["kv_blocks_used"] == 0
    for name, sequence in sequences.items():
        if sequence is not starving:
            assert np.array_equal(sequence.rows[: sequence.num_rows], expected[name].rows)


@pytest.mark.parametrize("refused", [torch.empty, np.empty], ids=["torch", "numpy"])
def test_memory_that_the_host_refuses_is_missed_by_one_request_only(
    refused: Callable[[int], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_lm(SMALL)
    names = ["a", "huge", "b", "c"]
    texts = [100 if name == "huge" else 20 for name in names]
    sequences = {
        name: greedy(name, random_prompt(SMALL, i, text=texts[i]), 12) for i, name in enumerate(names)
    }
    alone: dict[str, Story] = {}
    for name in "abc":
        alone |= Rig(model).run([replace(sequences[name])])
    engine = Engine(model, EngineConfig(max_context=256))
    prefill, step = engine._runner._prefill, engine._runner._step
    held: list[weakref.ref[torch.Tensor]] = []

    def fail() -> None:
        working = torch.zeros(1)
        # What the try before had in its hands is free again.
        assert all(reference() is None for reference in held)
        held.append(weakref.ref(working))
        refused(1 << 50)

    def crowded(upload: torch.Tensor, shape: PrefillShape, *how: Any) -> Any:
        return prefill(upload, shape, *how) if shape.tokens <= 64 else fail()

    def cramped(state: BatchState, *how: Any) -> Any:
        return step(state, *how) if len(state.packed) == 1 else fail()

    monkeypatch.setattr(engine._runner, "_prefill", crowded)
    monkeypatch.setattr(engine._runner, "_step", cramped)
    assert failed(engine, sequences.values()) == {"huge"}
    for name in "abc":
        assert np.array_equal(sequences[name].rows[:12], alone[name].rows)


@pytest.mark.parametrize("overlap", ["on", "off"])
@pytest.mark.parametrize("broken", ["prefill", "save"])
def test_a_step_that_fails_leaves_nothing_to_those_that_come_after_it(
    broken: str, overlap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_lm(SMALL)
    settings = {"max_context": 128, "kv_cache_bytes": 16 * 16 * model.shape.position_bytes}
    expected = Rig(model, **settings).run(sampled(SMALL, 24)[:4])
    engine = Engine(model, EngineConfig(overlap=overlap, **settings))
    works = getattr(engine._runner, broken)

    def fail(*_: object) -> None:
        raise RuntimeError("the card is gone")

    def run() -> None:
        while engine.has_work():
            engine.step()

    for i in range(3):
        engine.add(greedy(f"first{i}", random_prompt(SMALL, i, text=50), 70))
    engine.step()
    monkeypatch.setattr(engine._runner, broken, fail)
    engine.add(greedy("late", random_prompt(SMALL, 9), 70))
    with pytest.raises(RuntimeError, match="the card is gone"):
        run()
    # What a worker does then: it fails all of its requests, and serves the next ones.
    for name in ("first0", "first1", "first2", "late"):
        engine.abort(name)
    monkeypatch.setattr(engine._runner, broken, works)
    assert (engine._runner._state.status == Status.IDLE).all()
    sequences = {sequence.id: sequence for sequence in sampled(SMALL, 24)[:4]}
    for sequence in sequences.values():
        engine.add(sequence)
    run()
    for name, sequence in sequences.items():
        assert np.array_equal(sequence.rows[: sequence.num_rows], expected[name].rows)

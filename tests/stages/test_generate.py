"""Prompts become frames: the first of a request names it, the last ends it, and nothing is left behind."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from stentor.config import EngineConfig
from stentor.engine.engine import Engine
from stentor.engine.sequence import Output, Sequence
from stentor.errors import OverloadedError, RequestError
from stentor.request import BEGIN_ROW, END_ROW, FinishReason, Frames, Prompt, SamplingParams, SpeechRequest
from stentor.stages.base import Payload
from stentor.stages.generate import GenerateStage, prompt_matrix
from tests.checkpoints import Recipe
from tests.engine.harness import make_lm
from tests.engine.oracle import BEGIN, END, random_prompt

RECIPE = Recipe(seed=6, hidden=32, layers=1, heads=2, kv_heads=1, head_dim=8, eoc_gain=3.0, with_codec=False)
MODEL = make_lm(RECIPE)


def make_stage(**settings: int) -> GenerateStage:
    return GenerateStage(Engine(MODEL, EngineConfig(**({"max_context": 128} | settings))), MODEL.shape)


def make_prompt(name: str, max_rows: int = 60, guard_rows: int | None = None, length: int = 9) -> Prompt:
    return Prompt(
        request=SpeechRequest(name, "words"),
        token_ids=random_prompt(RECIPE, len(name), text=length)[:, 0],
        sampling=SamplingParams(0.7, 0.9, 50, 3, max_rows),
        max_rows=guard_rows,
    )


def frames(payload: Payload) -> Frames:
    assert isinstance(payload.data, Frames)
    return payload.data


def drain(stage: GenerateStage) -> dict[str, list[Payload]]:
    out: dict[str, list[Payload]] = {}
    while stage.has_work():
        for payload in stage.step():
            out.setdefault(payload.request_id, []).append(payload)
    return out


def test_the_first_frames_name_the_request_and_the_last_end_it() -> None:
    stage = make_stage()
    prompts = {name: make_prompt(name) for name in ("a", "b", "c")}
    for name, prompt in prompts.items():
        stage.add(Payload(name, prompt))
    for name, payloads in drain(stage).items():
        first, *rest = payloads
        assert frames(first).request is prompts[name].request
        assert all(frames(payload).request is None for payload in rest)
        assert [payload.last for payload in payloads] == [False] * len(rest) + [True]
        for payload in payloads:
            assert (frames(payload).finish_reason is not None) == payload.last
            assert (frames(payload).usage is not None) == payload.last
            assert payload.failure is None
        usage = frames(payloads[-1]).usage
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (
            9,
            len(payloads) + MODEL.shape.num_codebooks - 1,
        )
        # The rows before the first frame are told to nobody.
        assert all(len(frames(payload).codes) == 1 for payload in payloads)
    assert stage.stats()["kv_blocks_used"] == 0


def test_limit_and_guard_end_a_request_with_their_names() -> None:
    stage = make_stage()
    stage.add(Payload("long", make_prompt("long", max_rows=10)))
    stage.add(Payload("wild", make_prompt("wild", max_rows=60, guard_rows=9)))
    out = drain(stage)
    assert frames(out["long"][-1]).finish_reason == FinishReason.LENGTH
    assert sum(len(frames(payload).codes) for payload in out["long"]) == 3
    assert frames(out["wild"][-1]).finish_reason == FinishReason.RUNAWAY
    assert sum(len(frames(payload).codes) for payload in out["wild"]) == 2


def test_an_abort_ends_all_of_a_request_and_nothing_else() -> None:
    stage = make_stage(max_running_requests=2)
    for name in ("a", "b", "waiting"):
        stage.add(Payload(name, make_prompt(name, max_rows=30)))
    for _ in range(3):
        stage.step()
    stage.abort("a")
    stage.abort("waiting")
    stage.abort("never seen")
    out = drain(stage)
    assert out.keys() == {"b"}
    assert stage.stats()["kv_blocks_used"] == 0
    assert stage._prompts == {}


def test_a_prompt_that_cannot_fit_is_refused_with_what_would() -> None:
    stage = make_stage()
    with pytest.raises(
        RequestError, match=r"\(9 positions .* max_new_tokens \(120\) exceed the context of 128"
    ):
        stage.add(Payload("r", make_prompt("r", max_rows=120)))
    assert not stage.has_work()
    assert stage._prompts == {}
    stage.add(Payload("r", make_prompt("r", max_rows=119)))
    assert drain(stage)["r"][-1].last


def test_the_reference_stands_delayed_in_its_place() -> None:
    codes = np.arange(24, dtype=np.uint16).reshape(3, 8)
    prompt = Prompt(
        request=SpeechRequest("r", "words"),
        token_ids=np.array([7, 8, 9], dtype=np.int32),
        sampling=SamplingParams(0.0, 1.0, 0, 0, 10),
        reference_start=2,
        reference_codes=codes,
    )
    matrix = prompt_matrix(prompt, MODEL.shape)
    assert matrix.dtype == np.int32
    assert matrix[:, 0].tolist() == [7, 8] + [-1] * 10 + [9]
    reference = matrix[2:12, 1:]
    assert reference[0].tolist() == [0] + [BEGIN] * 7
    assert reference[9].tolist() == [END] * 7 + [23]
    assert [[reference[f + c, c] for c in range(8)] for f in range(3)] == codes.tolist()
    assert not matrix[[0, 1, 12], 1:].any()


@dataclass
class ScriptedEngine:
    """Gives these outputs, one step each."""

    outputs: list[Output]
    max_context: int = 100
    added: list[Sequence] = field(default_factory=list)

    def add(self, sequence: Sequence) -> None:
        self.added.append(sequence)

    def step(self) -> list[Output]:
        return [self.outputs.pop(0)]


def test_a_prompt_may_hold_rows_that_are_all_begin_or_end_codes() -> None:
    ids = np.array([5, BEGIN_ROW, END_ROW, 0, BEGIN_ROW], np.int32)
    prompt = Prompt(
        SpeechRequest("r", "Hi."), ids, SamplingParams(), 10, 2, reference_codes=np.ones((1, 8), int)
    )
    matrix = prompt_matrix(prompt, MODEL.shape)
    assert matrix[:, 0].tolist() == [5, -1, *[-1] * 8, -1, 0, -1]
    assert set(matrix[1, 1:]) == set(matrix[12, 1:]) == {MODEL.shape.begin_code}
    assert set(matrix[10, 1:]) == {MODEL.shape.end_code}
    assert not matrix[[0, 11], 1:].any()


def test_special_codes_amid_the_content_are_silenced() -> None:
    sequence = Sequence("r", random_prompt(RECIPE, 0), SamplingParams(), 20)
    drawn = np.array([[0, 1, 1023, BEGIN, END, 5, 6, 7]], dtype=np.uint16)
    stage = GenerateStage(ScriptedEngine([Output(sequence, drawn)]), MODEL.shape)  # type: ignore[arg-type]
    (payload,) = stage.step()
    assert frames(payload).codes.tolist() == [[0, 1, 1023, 0, 0, 5, 6, 7]]
    assert frames(payload).codes.dtype == np.uint16
    assert drawn.tolist() == [[0, 1, 1023, BEGIN, END, 5, 6, 7]]


def test_what_the_engine_refused_ends_in_its_error() -> None:
    sequence = Sequence("r", random_prompt(RECIPE, 0), SamplingParams(), 20)
    refused = Output(sequence, sequence.rows[:0], error=OverloadedError("no memory"))
    stage = GenerateStage(ScriptedEngine([refused]), MODEL.shape)  # type: ignore[arg-type]
    (payload,) = stage.step()
    assert (payload.request_id, payload.last, payload.data) == ("r", True, None)
    assert payload.failure is not None
    assert (payload.failure.kind, payload.failure.message) == ("OverloadedError", "no memory")


def test_a_closed_stage_holds_no_request() -> None:
    stage = make_stage()
    stage.add(Payload("r", make_prompt("r")))
    stage.close()
    assert stage._prompts == {}

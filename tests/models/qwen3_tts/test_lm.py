"""The language model says what plain words say over transformers' Qwen3, alone and in company."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stentor.engine.sequence import Sequence
from stentor.models.higgs_audio.dummy import DummyWeights
from stentor.models.qwen3_tts.checkpoint import lm_shapes, open_weights
from stentor.models.qwen3_tts.config import QwenConfig
from stentor.models.qwen3_tts.lm import QwenLM
from stentor.request import VOICE_ROW, FinishReason, SamplingParams
from tests.engine.harness import Rig, Story
from tests.qwen3_checkpoints import CODEBOOKS, CODES, MARKS, TALKER_MARKS, Network, make_qwen3_checkpoint

CPU, PAD = torch.device("cpu"), MARKS["tts_pad"]
NUMBERS = np.random.default_rng(7)
ROWS = NUMBERS.integers(0, CODES, (21, CODEBOOKS))
VOICES = NUMBERS.standard_normal((2, 48)).astype(np.float32)
# Kinds of positions, and what stands there: text alone, text to be said, codes, a voice, rows of a reference.
PROMPTS: list[list[tuple[str, Any]]] = [
    [("text", [1, 2, 3]), ("code", 145), ("said", [290, 9, 8, 7, 291]), ("code", 148)],
    [("text", [5] * 30), ("voice", 0), ("said", [17, 18, 291]), ("code", 148), ("rows", ROWS)],
    [("text", [5] * 30), ("voice", 1), ("said", [17, 18, 291]), ("code", 148)],
]


def load(folder: Path, dtype: torch.dtype = torch.float32, kind: str = "base") -> QwenLM:
    config = QwenConfig.read(make_qwen3_checkpoint(folder, kind, seed=3))
    return QwenLM(config, open_weights(folder, config), dtype, CPU)


def sequence(number: int, sampling: SamplingParams, rows: int = 40) -> Sequence:
    lines, voice = [], None
    for kind, given in PROMPTS[number]:
        if kind == "rows":
            lines += [[-1, *row] for row in given]
        elif kind == "voice":
            voice = VOICES[given]
            name = hashlib.blake2b(voice.tobytes(), digest_size=64).digest()
            lines.append([VOICE_ROW, *np.frombuffer(name, np.int32)])
        else:
            # The text's vocabulary has 300 ids.
            ids = [600 + given] if kind == "code" else [id + 300 * (kind == "said") for id in given]
            lines += [[id] + [0] * CODEBOOKS for id in ids]
    prompt = np.array(lines, np.int32)
    return Sequence(f"s{number}", prompt, sampling, rows, None, True, voice)


def embedded(network: Network, number: int) -> torch.Tensor:
    def part(kind: str, given: Any) -> torch.Tensor:
        if kind == "text":
            return network.text(given)
        if kind == "said":
            return network.text(given) + network.special([TALKER_MARKS["pad"]])
        if kind == "code":
            return network.special([given]) + network.text([PAD])
        codes = torch.from_numpy(VOICES[given])[None] if kind == "voice" else network.rows(given)
        return codes + network.text([PAD])

    with torch.inference_mode():
        return torch.cat([part(*each) for each in PROMPTS[number]])


def check_against(network: Network, number: int, story: Story, penalty: float = 1.0) -> None:
    """Every code that was drawn has the best score, or one as good."""
    rows = story.rows.astype(np.int64)
    first, others = network.scores(embedded(network, number), np.minimum(rows, CODES + 1))
    first[:2, -1] = -np.inf
    for step in range(len(rows)):
        for code in set(rows[max(0, step - 16) : step, 0].tolist()):
            first[step, code] *= 1 / penalty if first[step, code] > 0 else penalty
    ended = story.reason == FinishReason.STOP
    for scores, codes in (
        (first[:, None], rows[:, :1]),
        (others[: len(rows) - ended], rows[: len(rows) - ended, 1:]),
    ):
        drawn = np.take_along_axis(scores, codes[..., None], -1)[..., 0]
        assert (drawn >= scores.max(-1) - 1e-3).all()
    assert len(np.concatenate(story.frames)) == len(rows) - ended


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_frames_are_those_of_plain_words(tmp_path: Path, penalty: float) -> None:
    network = Network(3).eval()
    sampling = SamplingParams(0.0, 1.0, 0, 0, None, penalty)
    stories = Rig(load(tmp_path)).run([sequence(n, sampling) for n in range(3)], arrivals=range(3))
    for number in range(3):
        check_against(network, number, stories[f"s{number}"], penalty)
    assert not np.array_equal(stories["s1"].rows[:2], stories["s2"].rows[:2])
    assert len({*np.concatenate([story.rows[:, 0] for story in stories.values()]).tolist()}) > 9


def test_a_sequence_is_the_same_alone_in_company_and_prefilled_in_pieces(tmp_path: Path) -> None:
    model = load(tmp_path)

    def drawn(number: int) -> Sequence:
        return sequence(number, SamplingParams(0.9, 0.95, 20, 5 + number, None, 1.05))

    together = Rig(model).run([drawn(n) for n in range(3)], arrivals=range(3))
    pieces = Rig(model, max_prefill_tokens=16).run([drawn(n) for n in range(3)])
    for number in range(3):
        alone = Rig(model).run([drawn(number)])[f"s{number}"]
        assert together[f"s{number}"].same(alone)
        assert pieces[f"s{number}"].same(alone)


def test_an_end_is_drawn_from_the_third_frame_on_and_is_no_frame(tmp_path: Path) -> None:
    model = load(tmp_path)
    with torch.no_grad():
        plain = model.logits

        def eager(hidden: torch.Tensor) -> torch.Tensor:
            scores = plain(hidden)
            scores[..., CODES + 1] = 1e4
            return scores

        model.logits = eager  # type: ignore[method-assign]
        story = Rig(model).run([sequence(0, SamplingParams(0.8, 1.0, 9, 3, None))])["s0"]
    assert (len(story.rows), story.reason) == (3, FinishReason.STOP)
    assert np.array_equal(np.concatenate(story.frames), story.rows[:2])


def test_random_weights_of_the_right_shapes_speak(tmp_path: Path) -> None:
    config = QwenConfig.read(make_qwen3_checkpoint(tmp_path))
    weights = DummyWeights(lm_shapes(config), torch.float32, CPU)
    model = QwenLM(config, weights, torch.float32, CPU)
    assert len(Rig(model).run([sequence(0, SamplingParams(0.0, 1.0, 0, 0, None))])["s0"].rows) > 2
    assert model.shape.voice_size == 0

"""The language model says what transformers' own says, in both layouts, alone and in company."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stentor.engine.sequence import Sequence, delay
from stentor.models.higgs_audio.dummy import DummyWeights
from stentor.models.higgs_audio_v2.checkpoint import lm_shapes, open_weights
from stentor.models.higgs_audio_v2.config import RopeScaling, V2Config
from stentor.models.higgs_audio_v2.lm import V2LM, stretched
from stentor.request import SamplingParams
from tests.engine.harness import Rig
from tests.engine.oracle import BEGIN, END, NUM_CODEBOOKS, VOCAB, Oracle
from tests.v2_checkpoints import hugging_face, make_v2_checkpoint, token_ids

IDS = token_ids()


class Judge(Oracle):
    """transformers' model without a cache, in the place of the third version's."""

    def __init__(self, seed: int = 0) -> None:
        self.model = hugging_face(seed)

    @torch.inference_mode()
    def logits(self, prompt: np.ndarray, rows: np.ndarray) -> np.ndarray:
        fed = np.concatenate((np.full((len(rows), 1), -1), rows), axis=1)
        history = torch.from_numpy(np.concatenate((prompt, fed)).astype(np.int64))
        is_text = history[:, 0] >= 0
        input_ids = torch.where(is_text, history[:, 0], IDS["<|AUDIO_OUT|>"])[None]
        codes = history[~is_text, 1:][None]
        scores = self.model(input_ids=input_ids, audio_input_ids=codes, use_cache=False).logits[0]
        return scores[len(prompt) - 1 :].view(-1, NUM_CODEBOOKS, VOCAB).double().numpy()


def load(folder: Path, dtype: torch.dtype = torch.float32, redraws: bool = False) -> V2LM:
    if not redraws:
        (folder / "generation_config.json").write_text('{"ras_win_len": 0}')
    config = V2Config.read(folder)
    return V2LM(config, open_weights(folder, config), dtype, torch.device("cpu"))


def prompt_of(seed: int, text: int, reference: int = 0) -> np.ndarray:
    """Text, perhaps a reference between its rows of begin and end codes, text, and the row that begins."""
    generator = np.random.default_rng(seed)
    words = np.zeros((text, 1 + NUM_CODEBOOKS), np.int32)
    words[:, 0] = generator.integers(0, 256, text)
    begin, end = (np.full((1, NUM_CODEBOOKS), code) for code in (BEGIN, END))
    parts = [words]
    if reference:
        codes = generator.integers(0, 1024, (reference, NUM_CODEBOOKS))
        rows = np.concatenate((begin, delay(codes, BEGIN, END), end))
        parts += [np.concatenate((np.full((len(rows), 1), -1), rows), axis=1), words[: text // 2]]
    words[-1, 0] = IDS["<|audio_out_bos|>"]
    parts.append(np.concatenate(([[-1]], begin), axis=1))
    return np.concatenate(parts).astype(np.int32)


PROMPTS = [prompt_of(0, 20), prompt_of(1, 9, 12), prompt_of(2, 33, 3), prompt_of(3, 4)]


def greedy(number: int, rows: int = 40) -> Sequence:
    return Sequence(f"s{number}", PROMPTS[number].copy(), SamplingParams(0.0, 1.0, 0, 0, None), rows)


@pytest.mark.parametrize("original", [False, True])
def test_greedy_rows_equal_those_of_transformers(original: bool, tmp_path: Path) -> None:
    model = load(make_v2_checkpoint(tmp_path, original=original, seed=4))
    stories = Rig(model).run([greedy(n) for n in range(4)], arrivals=range(4))
    judge = Judge(4)
    for number, prompt in enumerate(PROMPTS):
        rows = stories[f"s{number}"].rows
        assert len(set(rows[:, 0].tolist())) > 5
        assert np.array_equal(rows, judge.continuation(prompt, rows, tolerance=1e-3))


def test_generation_begins_as_that_of_transformers(tmp_path: Path) -> None:
    """Its first row is all begin codes, which here stands at the prompt's end."""
    rows = Rig(load(make_v2_checkpoint(tmp_path, seed=5))).run([greedy(0)])["s0"].rows
    ids = torch.from_numpy(PROMPTS[0][:-1, 0].astype(np.int64))[None]
    theirs: Any = hugging_face(5).generate(input_ids=ids, max_new_tokens=30, do_sample=False)
    assert (theirs[0, 0] == BEGIN).all()
    # From the first end code on, on any codebook, transformers goes another way.
    speech = int((theirs[0] == END).any(-1).int().argmax()) or theirs.shape[1]
    assert speech > 12
    assert np.array_equal(rows[: speech - 1], theirs[0, 1:speech].numpy())


def test_a_sequence_is_the_same_alone_in_company_and_prefilled_in_pieces(tmp_path: Path) -> None:
    model = load(make_v2_checkpoint(tmp_path, seed=6), redraws=True)

    def drawn(number: int) -> Sequence:
        sampling = SamplingParams(0.8, 0.95, 50, 7 + number, None)
        return Sequence(f"s{number}", PROMPTS[number].copy(), sampling, 40)

    together = Rig(model).run([drawn(n) for n in range(4)], arrivals=range(4))
    pieces = Rig(model, max_prefill_tokens=16).run([drawn(n) for n in range(4)])
    for number in range(4):
        alone = Rig(model).run([drawn(number)])[f"s{number}"]
        assert together[f"s{number}"].same(alone)
        assert pieces[f"s{number}"].same(alone)


def test_the_checkpoint_says_whether_codes_are_drawn_again(tmp_path: Path) -> None:
    folder = make_v2_checkpoint(tmp_path)
    assert load(folder, redraws=True).shape.redraw == (7, 2)
    assert load(folder).shape.redraw is None


def test_frequencies_are_stretched_as_transformers_stretches_them() -> None:
    inverse = hugging_face().model.rotary_emb.inv_freq.double()
    plain = 500_000.0 ** -(torch.arange(0, 16, 2, dtype=torch.float64) / 16)
    for eighths in (1, 8):
        scaling = RopeScaling(32.0, 0.125 * eighths, 0.5 * eighths, 1024.0 * eighths)
        torch.testing.assert_close(stretched(plain, scaling), inverse, rtol=1e-6, atol=0)


def test_random_weights_of_the_right_shapes_speak(tmp_path: Path) -> None:
    config = V2Config.read(make_v2_checkpoint(tmp_path))
    cpu = torch.device("cpu")
    weights = DummyWeights(lm_shapes(config)[0], torch.float32, cpu)
    rows = Rig(V2LM(config, weights, torch.float32, cpu)).run([greedy(1)])["s1"].rows
    assert len(rows) > 8

"""Laws of the plain loop: it is the same model, so its greedy rows are the oracle's."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stentor.engine.sequence import delay
from stentor.models.higgs_audio_v3.baseline import PlainLoop
from stentor.models.higgs_audio_v3.config import V3Config
from stentor.models.weights import open_checkpoint
from stentor.request import Prompt, SamplingParams, SpeechRequest
from tests.checkpoints import Recipe, make_checkpoint, random_tensors
from tests.engine.oracle import BEGIN, END, Oracle

RECIPE = {"seed": 3, "eoc_gain": 3.0}


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> PlainLoop:
    folder: Path = make_checkpoint(
        tmp_path_factory.mktemp("plain") / "checkpoint", **RECIPE, with_codec=False
    )
    config = V3Config.read(folder)
    return PlainLoop(config, open_checkpoint(folder), torch.float32, torch.device("cpu"))


def prompt_of(token_ids: np.ndarray, reference: np.ndarray | None = None, **sampling: float) -> Prompt:
    return Prompt(
        request=SpeechRequest("r", "text"),
        token_ids=token_ids,
        sampling=SamplingParams(max_new_tokens=60, **sampling),  # type: ignore[arg-type]
        reference_start=4,
        reference_codes=reference,
    )


@pytest.mark.parametrize("num_frames", [0, 5])
def test_greedy_rows_equal_the_oracles(loop: PlainLoop, num_frames: int) -> None:
    rng = np.random.default_rng(num_frames)
    token_ids = rng.integers(0, 250, 12).astype(np.int32)
    reference = rng.integers(0, 1024, (num_frames, 8)) if num_frames else None
    matrix = np.zeros((12, 9), dtype=np.int32)
    matrix[:, 0] = token_ids
    if reference is not None:
        rows = delay(reference, BEGIN, END)
        middle = np.concatenate((np.full((len(rows), 1), -1), rows), axis=1)
        matrix = np.concatenate((matrix[:4], middle, matrix[4:])).astype(np.int32)
    recipe = Recipe(**RECIPE, with_codec=False)
    (expected,) = Oracle(recipe, random_tensors(recipe)).generate([matrix], max_rows=60)
    prompt = prompt_of(token_ids, reference, temperature=0.0)
    np.testing.assert_array_equal(loop.rows(prompt), expected)
    assert loop(prompt) == len(expected) - 7


def test_a_seed_decides_the_rows(loop: PlainLoop) -> None:
    token_ids = np.arange(10, dtype=np.int32)
    first, again, other = (
        loop.rows(prompt_of(token_ids, temperature=1.0, top_p=0.9, top_k=40, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_the_cuts_leave_only_likely_codes(loop: PlainLoop) -> None:
    token_ids = np.arange(10, dtype=np.int32)
    greedy = loop.rows(prompt_of(token_ids, temperature=0.0))
    assert loop.rows(prompt_of(token_ids, temperature=1.0, top_k=1, seed=9)) == greedy
    assert loop.rows(prompt_of(token_ids, temperature=1.0, top_p=1e-6, seed=9)) == greedy

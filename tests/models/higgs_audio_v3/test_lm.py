"""The language model reads real checkpoints and says what transformers' modules say of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stentor.models.higgs_audio_v3.checkpoint import open_weights, read_codec_config
from stentor.models.higgs_audio_v3.config import V3Config
from stentor.models.higgs_audio_v3.lm import HiggsLM
from tests.checkpoints import Recipe, make_checkpoint, random_tensors
from tests.engine.harness import Rig, make_lm
from tests.engine.oracle import FUSED, HEAD, TEXT, VOCAB, Oracle, checkpoint_tensors, greedy, random_prompt

CHECKPOINTS: list[dict[str, Any]] = [
    {"shards": 1, "dtype": "bfloat16", "seed": 11},
    {"shards": 3, "dtype": "float16", "tied_heads_on_disk": False, "seed": 12, "rope_theta": 10_000.0},
    {"shards": 2, "dtype": "float32", "heads": 6, "kv_heads": 3, "head_dim": 8, "hidden": 40, "seed": 13},
]


def load(folder: Path, dtype: torch.dtype) -> HiggsLM:
    config = V3Config.read(folder)
    weights = open_weights(folder, config, read_codec_config(folder, config))
    return HiggsLM(config, weights.tensor, dtype, torch.device("cpu"))


@pytest.mark.parametrize("changes", CHECKPOINTS)
def test_greedy_rows_of_a_checkpoint_equal_those_of_its_raw_tensors(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    folder, recipe = make_checkpoint(tmp_path, **changes), Recipe(**changes)
    prompts = [random_prompt(recipe, i, text=7 + 9 * i, reference=5 * i) for i in range(4)]
    rig = Rig(load(folder, torch.float32))
    stories = rig.run([greedy(f"s{i}", prompt, 60) for i, prompt in enumerate(prompts)], arrivals=range(4))
    oracle = Oracle(recipe, checkpoint_tensors(folder))
    for i, prompt in enumerate(prompts):
        rows = stories[f"s{i}"].rows
        assert np.array_equal(rows, oracle.continuation(prompt, rows, tolerance=1e-3))


def test_a_head_of_its_own_scores_and_the_embedding_still_feeds() -> None:
    recipe = Recipe(seed=14, with_codec=False)
    tensors = random_tensors(recipe)
    tensors[HEAD] = random_tensors(replace(recipe, seed=15))[FUSED]
    prompt = random_prompt(recipe, 0)
    rows = Rig(make_lm(recipe, tensors=tensors, tied=False)).run([greedy("s", prompt, 60)])["s"].rows
    untied, tied = Oracle(recipe, tensors, tied=False), Oracle(recipe, tensors)
    assert np.array_equal(rows, untied.continuation(prompt, rows, tolerance=1e-3))
    assert not np.array_equal(rows, tied.continuation(prompt, rows, tolerance=1e-3))


def test_a_position_of_the_prompt_is_a_text_id_or_the_sum_of_its_codes() -> None:
    recipe = Recipe(seed=16, with_codec=False)
    tensors, model = random_tensors(recipe), make_lm(recipe)
    prompt = torch.zeros(3, 9, dtype=torch.int64)
    prompt[0, 0], prompt[1, 0], prompt[2, 0] = 5, -1, recipe.text_vocab - 1
    prompt[1, 1:] = torch.tensor([0, 1, 1023, 1024, 1025, 7, 8, 9])
    embedded = model.embed_prompt(prompt)
    codes = prompt[1, 1:] + VOCAB * torch.arange(8)
    assert torch.equal(embedded[0], tensors[TEXT][5].float())
    assert torch.equal(embedded[2], tensors[TEXT][-1].float())
    torch.testing.assert_close(embedded[1], tensors[FUSED][codes].float().sum(0))
    assert torch.equal(model.embed_rows(prompt[1:2, 1:]), embedded[1:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_scores_are_in_the_arithmetic_of_the_model(dtype: torch.dtype) -> None:
    model = make_lm(Recipe(seed=17, with_codec=False), dtype)
    hidden = torch.ones(3, 48, dtype=dtype)
    assert model.shape.dtype == dtype
    assert model.embed_rows(torch.zeros(2, 8, dtype=torch.int64)).dtype == dtype
    assert model.logits(hidden).dtype == dtype
    assert model.logits(hidden).shape == (3, 8, VOCAB)


def test_the_row_of_a_sequence_that_ended_can_be_embedded() -> None:
    model = make_lm(Recipe(seed=18, with_codec=False))
    assert model.embed_rows(torch.full((2, 8), -1)).isfinite().all()

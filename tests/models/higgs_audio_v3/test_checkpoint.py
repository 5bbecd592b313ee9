"""Laws of the inventory: every tensor of the real format, no other, each in its shape."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stentor.errors import CheckpointError
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_v3.checkpoint import (
    all_shapes,
    codec_identity,
    lm_shapes,
    open_weights,
    read_codec_config,
)
from stentor.models.higgs_audio_v3.config import V3Config
from stentor.models.weights import Checkpoint
from tests.checkpoints import CODEC_PREFIX, Recipe, make_checkpoint, random_tensors, write_tensors

REAL = V3Config(
    num_codebooks=8,
    codebook_size=1026,
    text_vocab_size=151936,
    hidden_size=2560,
    intermediate_size=9728,
    num_layers=36,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    max_positions=32768,
    rope_theta=1e6,
    norm_eps=1e-6,
)

Tensors = dict[str, torch.Tensor]


def opened(folder: Path) -> Checkpoint:
    config = V3Config.read(folder)
    return open_weights(folder, config, read_codec_config(folder, config))


def changed(folder: Path, change: Callable[[Tensors], object]) -> Path:
    """A checkpoint of which `change` has edited the tensors."""
    make_checkpoint(folder)
    tensors = random_tensors(Recipe())
    change(tensors)
    write_tensors(folder, tensors)
    return folder


def test_the_real_model_has_the_published_number_of_parameters() -> None:
    wanted, _ = lm_shapes(REAL)
    assert len(wanted) == 36 * 11 + 3
    assert sum(map(math.prod, wanted.values())) == 4_043_480_576


def test_the_real_checkpoint_has_the_published_index_and_size() -> None:
    wanted, optional = all_shapes(REAL, CodecConfig.read())
    assert len(wanted) == 927
    assert 2 * sum(map(math.prod, wanted.values())) == 8_489_763_794
    assert sum(map(math.prod, (wanted | optional).values())) == 4_654_850_537


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_complete_checkpoint_passes(tmp_path: Path, tied: bool, shards: int) -> None:
    make_checkpoint(
        tmp_path, tied_heads_on_disk=tied, shards=shards, layers=3, heads=6, head_dim=8, kv_heads=3
    )
    weights = opened(tmp_path)
    assert weights.tensor("body.layers.2.self_attn.q_proj.weight").shape == (48, 48)
    assert weights.tensor(CODEC_PREFIX + "fc2.weight").shape == (16, 40)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    changed(tmp_path, lambda tensors: tensors.pop("body.layers.1.self_attn.k_norm.weight"))
    with pytest.raises(
        CheckpointError, match=r"1 tensor is missing: body\.layers\.1\.self_attn\.k_norm\.weight"
    ):
        opened(tmp_path)


def test_an_extra_tensor_is_named(tmp_path: Path) -> None:
    changed(
        tmp_path, lambda tensors: tensors.update({"body.layers.0.self_attn.q_proj.bias": torch.zeros(64)})
    )
    with pytest.raises(
        CheckpointError, match=r"1 tensor is not known: body\.layers\.0\.self_attn\.q_proj\.bias"
    ):
        opened(tmp_path)


def test_a_misshapen_tensor_is_named(tmp_path: Path) -> None:
    changed(tmp_path, lambda tensors: tensors.update({"body.norm.weight": torch.zeros(47)}))
    with pytest.raises(CheckpointError, match=r"body\.norm\.weight is \[47\], not \[48\]"):
        opened(tmp_path)


def test_a_missing_codec_tensor_is_named(tmp_path: Path) -> None:
    changed(tmp_path, lambda tensors: tensors.pop(CODEC_PREFIX + "acoustic_decoder.conv1.weight"))
    with pytest.raises(CheckpointError, match=r"acoustic_decoder\.conv1\.weight"):
        opened(tmp_path)


def test_a_checkpoint_without_its_codec_says_so(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, with_codec=False)
    with pytest.raises(CheckpointError, match="the audio codec is missing"):
        opened(tmp_path)


def test_an_untied_head_must_be_there(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, tied_heads_on_disk=False)
    content = json.loads((tmp_path / "config.json").read_text())
    content["audio_encoder_config"]["tie_word_embeddings"] = False
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"missing: tied\.head\.modality_heads\.0\.weight"):
        opened(tmp_path)


def test_a_codec_of_another_size_is_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    path = tmp_path / "higgs_audio_v2_tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_bandwidths": [1]}))
    with pytest.raises(CheckpointError, match=r"4 codebooks of 1024 codes, but config\.json 8 of 1024"):
        read_codec_config(tmp_path, V3Config.read(tmp_path))


def test_without_a_codec_configuration_the_real_one_counts(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, with_codec=False)
    assert read_codec_config(tmp_path, V3Config.read(tmp_path)) == CodecConfig.read()


def test_a_codec_is_known_by_its_codebooks(tmp_path: Path) -> None:
    def scale(word: str) -> Callable[[Tensors], object]:
        return lambda tensors: tensors.update(
            {name: 2 * tensor for name, tensor in tensors.items() if word in name}
        )

    own = codec_identity(make_checkpoint(tmp_path / "own"))
    assert codec_identity(changed(tmp_path / "language", scale("body."))) == own
    assert codec_identity(changed(tmp_path / "codebooks", scale("codebook.embed"))) != own
    (tmp_path / "own" / "model.safetensors").unlink()
    assert codec_identity(tmp_path / "own") == ""
    assert len(own) == 16

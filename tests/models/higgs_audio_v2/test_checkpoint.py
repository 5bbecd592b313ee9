"""Every tensor is accounted for in both layouts; the codec lies beside the model or comes from the hub."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stentor.errors import CheckpointError, ConfigError
from stentor.models import registry
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_v2 import checkpoint
from stentor.models.higgs_audio_v2.checkpoint import (
    CODEC_HUB_ID,
    codec_config,
    codec_identity,
    open_codec,
    open_weights,
)
from stentor.models.higgs_audio_v2.config import V2Config
from tests.v2_checkpoints import make_v2_checkpoint


def change_tensors(path: Path, drop: str = "", **added: torch.Tensor) -> None:
    tensors = load_file(path)
    tensors.pop(drop, None)
    save_file(tensors | {name.replace("__", "."): values for name, values in added.items()}, path)


@pytest.mark.parametrize("original", [False, True])
def test_what_is_missing_or_unknown_is_named(tmp_path: Path, original: bool) -> None:
    folder = make_v2_checkpoint(tmp_path, original=original)
    config = V2Config.read(folder)
    assert len(open_weights(folder, config).shapes) == 4 + 2 * 14
    dropped = "layers.1.audio_mlp.up_proj.weight" if original else "model.layers.1.audio_mlp.up_proj.weight"
    change_tensors(folder / "model.safetensors", dropped, surplus__weight=torch.zeros(2))
    with pytest.raises(CheckpointError, match=rf"1 tensor is missing: {dropped}.*not known: surplus\.weight"):
        open_weights(folder, config)


def test_the_unused_heads_may_be_there_under_either_name(tmp_path: Path) -> None:
    folder = make_v2_checkpoint(tmp_path)
    config = V2Config.read(folder)
    text, fused = torch.zeros(config.text_vocab_size, 48), torch.zeros(8 * 1026, 48)
    change_tensors(
        folder / "model.safetensors",
        audio_decoder_proj__text_lm_head__weight=text,
        audio_decoder_proj__audio_lm_head__weight=fused,
        text_lm_head__weight=text.clone(),
    )
    open_weights(folder, config)


def test_the_codec_beside_the_model_is_read_strictly(tmp_path: Path) -> None:
    folder = make_v2_checkpoint(tmp_path)
    codec = codec_config(folder, V2Config.read(folder))
    assert codec.acoustic.hidden_size == 16
    assert len(open_codec(folder, codec).shapes) > 300
    change_tensors(folder / "codec" / "model.safetensors", "fc2.bias")
    with pytest.raises(CheckpointError, match=r"1 tensor is missing: fc2\.bias"):
        open_codec(folder, codec)


def test_an_original_codec_says_nothing_of_its_networks(tmp_path: Path) -> None:
    folder = make_v2_checkpoint(tmp_path)
    (folder / "codec" / "config.json").write_text(json.dumps({"n_filters": 32, "D": 256, "n_q": 8}))
    assert codec_config(folder, V2Config.read(folder)) == CodecConfig.read()


def test_a_codec_of_other_codebooks_is_refused(tmp_path: Path) -> None:
    folder = make_v2_checkpoint(tmp_path)
    path = folder / "codec" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_bandwidths": [0.5, 1]}))
    with pytest.raises(CheckpointError, match="4 codebooks of 1024 codes, the language model 8 of 1024"):
        codec_config(folder, V2Config.read(folder))


def test_a_language_model_in_the_place_of_the_codec_is_told_apart(tmp_path: Path) -> None:
    folder = make_v2_checkpoint(tmp_path)
    (folder / "model.safetensors").replace(folder / "codec" / "model.safetensors")
    with pytest.raises(CheckpointError, match="a language model's, not the codec's"):
        open_codec(folder, CodecConfig.read())


def test_a_pickle_is_not_opened_and_the_way_out_is_told(tmp_path: Path) -> None:
    folder = make_v2_checkpoint(tmp_path)
    (folder / "codec" / "model.safetensors").rename(folder / "codec" / "model.pth")
    with pytest.raises(CheckpointError, match=r"a pickle, model\.pth.*make it safe once: python -c"):
        open_codec(folder, CodecConfig.read())


def test_without_one_the_published_codec_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_v2_checkpoint(tmp_path / "model", codec=False)
    elsewhere = make_v2_checkpoint(tmp_path / "other") / "codec"
    asked: list[str] = []

    def resolve(model: str) -> Path:
        asked.append(model)
        if len(asked) > 1:
            raise ConfigError("the hub cannot be reached")
        return elsewhere

    monkeypatch.setattr(registry, "resolve", resolve)
    assert checkpoint.registry is registry
    assert codec_config(folder, V2Config.read(folder)) == CodecConfig.read()
    tiny = CodecConfig.read(elsewhere / "config.json")
    assert open_codec(folder, tiny).folder == elsewhere
    assert asked == [CODEC_HUB_ID]
    with pytest.raises(ConfigError, match="cannot be reached"):
        open_codec(folder, tiny)


def test_codes_are_known_by_their_codec(tmp_path: Path) -> None:
    first, same = make_v2_checkpoint(tmp_path / "a"), make_v2_checkpoint(tmp_path / "b")
    other = make_v2_checkpoint(tmp_path / "c", seed=1)
    assert codec_identity(first) == codec_identity(same) != codec_identity(other)
    assert codec_identity(make_v2_checkpoint(tmp_path / "d", codec=False)) == CODEC_HUB_ID
    (first / "codec" / "model.safetensors").unlink()
    assert codec_identity(first) == ""

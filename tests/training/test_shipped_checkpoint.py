"""The shipped checkpoint is complete: names, shapes and tokens of the Higgs v3 format."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from stentor.voices.presets import DEFAULT, OPENAI_VOICES, Presets
from training.export import CODEC_PREFIX, codec_config, codec_tensors, language_model_tensors, model_config
from training.prompts import SPECIAL_TOKENS, TOKEN_IDS
from training.speakers import PRESETS

FOLDER = Path(__file__).parents[2] / "stentor" / "checkpoints" / "stentor_tiny"
LIMIT_BYTES = 30_000_000


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, ...]]:
    with safe_open(FOLDER / "model.safetensors", framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def encoder_width(shapes: dict[str, tuple[int, ...]]) -> int:
    return shapes[CODEC_PREFIX + "acoustic_encoder.conv1.weight"][0]


def test_every_tensor_of_the_recipe_is_in_the_file_and_no_other(shapes: dict[str, tuple[int, ...]]) -> None:
    import torch

    from training.codec import Decoder, Encoder
    from training.language_model import TinyLanguageModel
    from training.quantizer import BOOKS, CODE_DIM, CODES, Quantizer

    blank = Quantizer(
        torch.zeros(256), torch.zeros(256, CODE_DIM), torch.zeros(64, 24), torch.zeros(BOOKS, CODES, CODE_DIM)
    )
    codec = codec_tensors(Decoder(), Encoder(encoder_width(shapes)), blank)
    expected = language_model_tensors(TinyLanguageModel()) | {CODEC_PREFIX + n: t for n, t in codec.items()}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in expected.items()}


def test_names_follow_the_format(shapes: dict[str, tuple[int, ...]]) -> None:
    layers = model_config()["text_config"]["num_hidden_layers"]
    body = [name for name in shapes if name.startswith("body.layers.")]
    assert len(body) == 11 * layers
    assert {"tied.embedding.text_embedding.weight", "body.norm.weight"} <= set(shapes)
    modules = {
        name.removeprefix(CODEC_PREFIX).split(".")[0] for name in shapes if name.startswith(CODEC_PREFIX)
    }
    assert modules == {
        "acoustic_encoder", "acoustic_decoder", "semantic_model", "encoder_semantic", "decoder_semantic",
        "quantizer", "fc", "fc1", "fc2",
    }  # fmt: skip


def test_tokenizer_has_every_special_token_as_one_id() -> None:
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert len(SPECIAL_TOKENS) == len(set(SPECIAL_TOKENS)) == 65
    for token in SPECIAL_TOKENS:
        assert tokenizer.encode(token, add_special_tokens=False).ids == [TOKEN_IDS[token]]
    text = "Déjà vu, 42!\n"
    assert tokenizer.encode(text, add_special_tokens=False).ids == list(text.encode())


def test_configs_on_disk_are_those_of_the_recipe(shapes: dict[str, tuple[int, ...]]) -> None:
    assert json.loads((FOLDER / "config.json").read_text()) == model_config()
    assert json.loads((FOLDER / "higgs_audio_v2_tokenizer.json").read_text()) == codec_config(
        encoder_width(shapes)
    )


def test_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < LIMIT_BYTES


def test_it_offers_eight_voices_and_maps_all_names_of_openai() -> None:
    presets = Presets(FOLDER)
    assert set(presets.names()) == {DEFAULT, *PRESETS}
    assert len(PRESETS) == 8
    assert {presets.find(name) for name in OPENAI_VOICES} > {DEFAULT, "ida", "bruno"}

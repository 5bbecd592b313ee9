from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from stentor.errors import CheckpointError
from stentor.models.qwen3_codec.config import FOLDER, QwenCodecConfig
from stentor.models.qwen3_codec.inventory import decoding_numbers, expected_shapes, open_codec
from tests.models.qwen3_codec.reference import code2wav, mimi, stored, transformer
from tests.qwen3_codec_files import TINY_QWEN_CODEC, make_speech_tokenizer


def test_names_and_shapes_are_those_of_transformers(config: QwenCodecConfig) -> None:
    """Where it has the parts: Mimi's encoder under the names that are on disk, and the network behind."""
    wanted = {}
    for name, tensor in mimi(TINY_QWEN_CODEC["encoder_config"]).state_dict().items():
        wanted[stored(name)] = tuple(tensor.shape)
    decoder = TINY_QWEN_CODEC["decoder_config"]
    for name, tensor in transformer(decoder).state_dict().items():
        wanted[f"decoder.pre_transformer.{name}"] = tuple(tensor.shape)
    for name, tensor in code2wav(decoder).state_dict().items():
        if name.startswith(("upsample.", "decoder.")):
            wanted[f"decoder.{name}"] = tuple(tensor.shape)
    found = expected_shapes(config)
    rest = found.keys() - wanted.keys()
    assert {name: found.get(name) for name in wanted} == wanted
    parts = ("quantizer.", "pre_conv.", "pre_transformer.input_proj.", "pre_transformer.output_proj.")
    assert all(name.startswith(tuple(f"decoder.{part}" for part in parts)) for name in rest)
    assert len(rest) == 2 * 16 + 2 * 2 + 2 + 2 * 2


def test_decoding_keeps_the_decoder_s_numbers(config: QwenCodecConfig) -> None:
    assert 0 < decoding_numbers(config) < 100_000


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    make_speech_tokenizer(tmp_path)
    path = tmp_path / FOLDER / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.downsample.conv.weight"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"1 tensor is missing: encoder\.downsample"):
        open_codec(tmp_path, QwenCodecConfig.of_checkpoint(tmp_path))

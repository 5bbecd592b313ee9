import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stentor.models.higgs_audio_codec.config import PACKAGED, CodecConfig
from stentor.models.higgs_audio_codec.convolution import Target
from stentor.models.higgs_audio_codec.decoder import Decoder, fold_quantizers
from stentor.models.higgs_audio_codec.weights import CodecWeights
from tests.models.higgs_audio_codec.conftest import read_config
from tests.models.higgs_audio_codec.reference import (
    MemoryWeights,
    Tensors,
    original_layout,
    random_codes,
    random_parameters,
    tiny_config,
    transformers_codec,
)

FLOAT32 = Target(torch.device("cpu"), torch.float32)


def as_batch(codes: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(codes.astype(np.int64))[None]


@torch.no_grad()
def oracle_decode(oracle: Any, codes: torch.Tensor) -> torch.Tensor:
    return oracle.decode(codes.transpose(1, 2)).audio_values[:, 0]


@pytest.mark.parametrize("frames", [1, 2, 7, 40, 333])
@pytest.mark.parametrize("layout", ["transformers", "original"])
def test_decoding_equals_transformers(
    tiny: CodecConfig, parameters: Tensors, oracle: Any, layout: str, frames: int
) -> None:
    tensors = parameters if layout == "transformers" else original_layout(parameters)
    decode = Decoder(CodecWeights(MemoryWeights(tensors), tiny), tiny, FLOAT32)
    codes = as_batch(random_codes(frames, tiny_config()))
    expected = oracle_decode(oracle, codes)
    assert expected.std() > 0.03
    torch.testing.assert_close(decode(codes), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ratios", [(5, 3), (4, 4, 4, 3, 5), (2, 8, 2, 5, 3)])
def test_decoding_equals_transformers_with_other_strides(tmp_path: Path, ratios: tuple[int, ...]) -> None:
    description = tiny_config(ratios, decoder_hidden_size=32)
    config = read_config(tmp_path, {**description, "semantic_sample_rate": 24000, "downsample_factor": 1})
    parameters = random_parameters(description, seed=2)
    decode = Decoder(CodecWeights(MemoryWeights(parameters), config), config, FLOAT32)
    codes = as_batch(random_codes(12, description))
    expected = oracle_decode(transformers_codec(description, parameters), codes)
    torch.testing.assert_close(decode(codes), expected, rtol=0, atol=1e-5)


def test_a_batch_decodes_as_each_alone(tiny: CodecConfig, parameters: Tensors) -> None:
    decode = Decoder(CodecWeights(MemoryWeights(parameters), tiny), tiny, FLOAT32)
    batch = torch.cat([as_batch(random_codes(30, tiny_config(), seed)) for seed in range(3)])
    torch.testing.assert_close(
        decode(batch), torch.cat([decode(codes[None]) for codes in batch]), rtol=0, atol=1e-5
    )


def test_a_snake_without_frequency_is_the_identity(tiny: CodecConfig, parameters: Tensors) -> None:
    silenced = {
        name: torch.zeros_like(value) if "alpha" in name else value for name, value in parameters.items()
    }
    decode = Decoder(CodecWeights(MemoryWeights(silenced), tiny), tiny, FLOAT32)
    codes = as_batch(random_codes(5, tiny_config()))
    expected = oracle_decode(transformers_codec(tiny_config(), silenced), codes)
    torch.testing.assert_close(decode(codes), expected, rtol=0, atol=1e-5)


def test_tables_hold_all_that_stands_before_the_decoder(
    tiny: CodecConfig, parameters: Tensors, oracle: Any
) -> None:
    tables = fold_quantizers(CodecWeights(MemoryWeights(parameters), tiny), tiny)
    codes = as_batch(random_codes(50, tiny_config()))
    with torch.no_grad():
        expected = oracle.fc2(oracle.quantizer.decode(codes.permute(2, 0, 1)).transpose(1, 2))
    summed = sum(tables[level][codes[..., level]] for level in range(8))
    torch.testing.assert_close(summed, expected, rtol=0, atol=1e-5)


def test_bfloat16_is_close(tiny: CodecConfig, parameters: Tensors) -> None:
    read = CodecWeights(MemoryWeights(parameters), tiny)
    codes = as_batch(random_codes(40, tiny_config()))
    exact = Decoder(read, tiny, FLOAT32)(codes)
    rough = Decoder(read, tiny, Target(torch.device("cpu"), torch.bfloat16))(codes)
    assert rough.dtype == torch.float32
    assert 10 * torch.log10(exact.var() / (exact - rough).var()) > 20


def test_the_full_size_decodes_like_descripts_decoder_and_by_windows() -> None:
    """The real geometry: the decoder only, against transformers' DacDecoder with the codec's two changes."""
    from transformers.models.dac.configuration_dac import DacConfig
    from transformers.models.dac.modeling_dac import DacDecoder

    config = CodecConfig.read()
    acoustic = json.loads(PACKAGED.read_text())["acoustic_model_config"]
    stock = DacDecoder(DacConfig(**{name: value for name, value in acoustic.items() if name != "model_type"}))
    stock.tanh = torch.nn.Identity()
    for module in stock.modules():
        if isinstance(module, torch.nn.ConvTranspose1d):
            module.output_padding = (module.stride[0] % 2,)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"acoustic_decoder.{name}": torch.randn(value.shape, generator=generator)
        * (0.02 if value.ndim < 3 else (2 * value[0].numel()) ** -0.5)
        for name, value in stock.state_dict().items()
    }
    tensors |= {name: value.abs() + 0.5 for name, value in tensors.items() if "alpha" in name}
    stock.load_state_dict({name.split(".", 1)[1]: value for name, value in tensors.items()})
    for level in range(8):
        place = f"quantizer.quantizers.{level}"
        tensors[f"{place}.codebook.embed"] = torch.randn(1024, 64, generator=generator)
        tensors[f"{place}.project_out.weight"] = torch.randn(1024, 64, generator=generator) / 8
        tensors[f"{place}.project_out.bias"] = torch.randn(1024, generator=generator)
    tensors["fc2.weight"] = torch.randn(256, 1024, generator=generator) / 32
    tensors["fc2.bias"] = torch.randn(256, generator=generator)
    read = CodecWeights(MemoryWeights(tensors), config)
    decode, tables = Decoder(read, config, FLOAT32), fold_quantizers(read, config)
    codes = as_batch(np.random.default_rng(0).integers(0, 1024, (26, 8)))
    latents = sum(tables[level][codes[..., level]] for level in range(8))
    with torch.no_grad():
        expected = stock(latents.transpose(1, 2))[:, 0]
    whole = decode(codes)
    scale = float(expected.abs().max())
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-5 * scale)
    window = decode(codes[:, 2:25])[:, 960 * 10 : 960 * 13]
    torch.testing.assert_close(window, whole[:, 960 * 12 : 960 * 15], rtol=0, atol=1e-5 * scale)

"""A GPU's order of work, done by PyTorch on a CPU, gives transformers' samples, ends included."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stentor.layers.kernels import Kernels
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.gpu_decoder import GpuDecoder
from stentor.models.higgs_audio_codec.weights import CodecWeights
from tests.models.higgs_audio_codec.conftest import read_config
from tests.models.higgs_audio_codec.reference import (
    MemoryWeights,
    Tensors,
    random_codes,
    random_parameters,
    tiny_config,
    transformers_codec,
)


def make(config: CodecConfig, parameters: Tensors, arithmetic: str = "float32") -> GpuDecoder:
    read = CodecWeights(MemoryWeights(parameters), config)
    return GpuDecoder(read, config, torch.device("cpu"), arithmetic, Kernels())


def batch(frames: int, config: dict[str, Any], rows: int = 1) -> torch.Tensor:
    return torch.stack([torch.from_numpy(random_codes(frames, config, row)).long() for row in range(rows)])


@torch.no_grad()
def oracle_decode(oracle: Any, codes: torch.Tensor) -> torch.Tensor:
    return oracle.decode(codes.transpose(1, 2)).audio_values[:, 0]


@pytest.mark.parametrize("frames", [1, 2, 7, 40])
def test_decoding_equals_transformers(
    tiny: CodecConfig, parameters: Tensors, oracle: Any, frames: int
) -> None:
    codes = batch(frames, tiny_config())
    expected = oracle_decode(oracle, codes)
    assert expected.std() > 0.03
    torch.testing.assert_close(make(tiny, parameters)(codes), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ratios", [(5, 3), (4, 4, 4, 3, 5)])
def test_decoding_equals_transformers_with_other_strides(tmp_path: Path, ratios: tuple[int, ...]) -> None:
    description = tiny_config(ratios, decoder_hidden_size=32)
    config = read_config(tmp_path, {**description, "semantic_sample_rate": 24000, "downsample_factor": 1})
    parameters = random_parameters(description, seed=2)
    codes = batch(12, description)
    expected = oracle_decode(transformers_codec(description, parameters), codes)
    torch.testing.assert_close(make(config, parameters)(codes), expected, rtol=0, atol=1e-5)


def test_a_padded_window_ends_where_it_ends(tiny: CodecConfig, parameters: Tensors) -> None:
    decode, codes, lengths = make(tiny, parameters), batch(24, tiny_config(), 3), (24, 3, 11)
    together = decode(codes, torch.tensor(lengths, dtype=torch.int16))
    for row, length in enumerate(lengths):
        alone = decode(codes[row : row + 1, :length])[0]
        torch.testing.assert_close(together[row, : 960 * length], alone, rtol=0, atol=1e-5)


def test_16_bits_are_close_and_come_out_in_float32(tiny: CodecConfig, parameters: Tensors) -> None:
    codes = batch(20, tiny_config())
    exact = make(tiny, parameters)(codes)
    for arithmetic, bound in (("float16", 1e-2), ("bfloat16", 8e-2)):
        rough = make(tiny, parameters, arithmetic)(codes)
        assert rough.dtype == torch.float32
        assert 0 < (rough - exact).norm() <= bound * exact.norm()

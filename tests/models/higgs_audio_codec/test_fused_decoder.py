"""With a GPU's kernels the decoder gives the reference's samples, ends included, a window its own bits."""

from pathlib import Path

import pytest
import torch

from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.convolution import Target
from stentor.models.higgs_audio_codec.decoder import Decoder
from stentor.models.higgs_audio_codec.gpu_decoder import GpuDecoder
from stentor.models.higgs_audio_codec.weights import CodecWeights
from tests.layers.triton.interpreted import DEVICE
from tests.layers.triton.test_fused import Launches
from tests.models.higgs_audio_codec.conftest import read_config
from tests.models.higgs_audio_codec.reference import (
    MemoryWeights,
    random_codes,
    random_parameters,
    tiny_config,
)

fused = pytest.importorskip("stentor.layers.triton.fused")
# The interpreter does not multiply bfloat16.
BOUNDS = {
    "float32": 1e-5,
    "tfloat32": 5e-3,
    "float16": 1e-2,
    **({} if DEVICE == "cpu" else {"bfloat16": 8e-2}),
}
# Short frames: the interpreter takes its time over every step.
RATIOS = (5, 3)
FRAME = 15
DESCRIPTION = tiny_config(RATIOS, decoder_hidden_size=64)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> CodecConfig:
    folder: Path = tmp_path_factory.mktemp("short")
    return read_config(folder, {**DESCRIPTION, "semantic_sample_rate": 24000, "downsample_factor": 1})


@pytest.fixture(scope="module")
def read(config: CodecConfig) -> CodecWeights:
    return CodecWeights(MemoryWeights(random_parameters(DESCRIPTION, seed=3)), config)


def make(read: CodecWeights, config: CodecConfig, arithmetic: str) -> GpuDecoder:
    return GpuDecoder(read, config, torch.device(DEVICE), arithmetic, fused.FusedKernels())


def codes_of(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(random_codes(frames, DESCRIPTION, seed)).long()


@pytest.mark.parametrize("arithmetic", BOUNDS)
def test_padded_windows_are_those_that_the_reference_decodes_alone(
    read: CodecWeights, config: CodecConfig, arithmetic: str
) -> None:
    lengths = (14, 2, 10)
    codes = torch.stack([codes_of(14, seed) for seed in range(3)])
    decode = make(read, config, arithmetic)
    found = decode(codes, torch.tensor(lengths, dtype=torch.int16, device=DEVICE)).cpu()
    plain = Decoder(read, config, Target(torch.device("cpu"), torch.float32))
    for row, length in enumerate(lengths):
        expected = plain(codes[row : row + 1, :length])[0]
        assert expected.std() > 0.03
        assert (found[row, : length * FRAME] - expected).norm() <= BOUNDS[arithmetic] * expected.norm()
        alone = decode(codes[row : row + 1, :length]).cpu()[0]
        assert torch.equal(found[row, : length * FRAME], alone)


@pytest.mark.parametrize("arithmetic", BOUNDS)
def test_streaming_equals_offline_to_the_bit(
    read: CodecWeights, config: CodecConfig, arithmetic: str
) -> None:
    decode, context, codes = make(read, config, arithmetic), config.context_frames, codes_of(36)
    whole = decode(codes[None])[0]
    for first, last in ((0, 3), (3, 20), (20, 36)):
        start = max(0, first - context)
        window = decode(codes[None, start : last + context])[0, FRAME * (first - start) :]
        assert torch.equal(window[: FRAME * (last - first)], whole[FRAME * first : FRAME * last])


@pytest.mark.skipif(DEVICE != "cpu", reason="the interpreter counts")
def test_a_unit_of_few_channels_takes_one_launch_and_so_does_each_convolution(
    read: CodecWeights, config: CodecConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = make(read, config, "float32")
    codes, lengths = torch.zeros((2, 4, 8), dtype=torch.int16), torch.tensor([4, 2], dtype=torch.int16)
    decode(codes, lengths)
    with monkeypatch.context() as patch, Launches(patch) as of_all:
        decode(codes, lengths)
    # The sum of the codes, two edges, and an upsampling and three units for each stride.
    assert of_all.count == 3 + 4 * len(RATIOS)

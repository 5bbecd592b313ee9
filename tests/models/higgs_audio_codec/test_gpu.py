"""On a card: vocoder rounds as graphs are the decoder called plainly. Nothing here runs without one."""

import numpy as np
import pytest
import torch

from stentor.layers.kernels import choose_kernels
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.convolution import Target
from stentor.models.higgs_audio_codec.vocoder import CodecVocoder
from stentor.models.higgs_audio_codec.weights import CodecWeights
from tests.models.higgs_audio_codec.reference import MemoryWeights, Tensors, random_codes, tiny_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

FRAMES = ((12, 22, 30, 70), (5, 144, 1), (52, 52, 52, 16))


def make(
    config: CodecConfig, parameters: Tensors, device: str, dtype: torch.dtype, rounds: bool = False
) -> CodecVocoder:
    target = Target(torch.device(device), dtype, choose_kernels("auto", torch.device(device)), rounds)
    return CodecVocoder(CodecWeights(MemoryWeights(parameters), config), config, target, most_frames=300)


@pytest.mark.parametrize(
    ("dtype", "rounds", "bound"),
    [(torch.float32, False, 1e-4), (torch.float32, True, 1e-2), (torch.bfloat16, False, 5e-2)],
)
def test_a_round_is_what_a_cpu_decodes(
    tiny: CodecConfig, parameters: Tensors, dtype: torch.dtype, rounds: bool, bound: float
) -> None:
    switch = torch.backends.cudnn.allow_tf32
    reference = make(tiny, parameters, "cpu", torch.float32)
    vocoder = make(tiny, parameters, "cuda", dtype, rounds)
    assert torch.backends.cudnn.allow_tf32 == switch
    for number, frames in enumerate(FRAMES):
        windows = [random_codes(size, tiny_config(), 10 * number + size) for size in frames]
        under_way = vocoder.begin(windows)
        later = vocoder.begin([random_codes(40, tiny_config(), 99)])
        for found, expected in zip(under_way(), reference.decode(windows), strict=True):
            assert np.linalg.norm(found - expected) <= bound * np.linalg.norm(expected)
        later()


def test_streaming_equals_offline_within_one_step_of_16_bits(tiny: CodecConfig, parameters: Tensors) -> None:
    vocoder = make(tiny, parameters, "cuda", torch.float32)
    codes = random_codes(120, tiny_config())
    whole = vocoder.decode([codes])[0]
    context = vocoder.context_frames
    for first in range(0, 120, 24):
        start, end = max(0, first - context), min(120, first + 24 + context)
        window = vocoder.decode([codes[start:end]])[0]
        chunk = window[(first - start) * 960 : (first - start + 24) * 960]
        assert np.abs(chunk - whole[first * 960 : (first + 24) * 960]).max() * 32767 <= 1

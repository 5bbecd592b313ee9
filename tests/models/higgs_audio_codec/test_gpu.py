"""On a card: vocoder rounds as graphs are the decoder called plainly. Nothing here runs without one."""

import numpy as np
import pytest
import torch

from stentor.layers.kernels import choose_kernels
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.vocoder import CodecVocoder, make_decoder
from stentor.models.higgs_audio_codec.weights import CodecWeights
from tests.models.higgs_audio_codec.reference import MemoryWeights, Tensors, random_codes, tiny_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

FRAMES = ((12, 22, 30, 70), (5, 144, 1), (52, 52, 52, 16))


# Of float32's samples, relative.
BOUNDS = {"float32": 1e-5, "tfloat32": 1e-2, "float16": 1e-2, "bfloat16": 8e-2}


def make(config: CodecConfig, parameters: Tensors, device: torch.device, arithmetic: str) -> CodecVocoder:
    read = CodecWeights(MemoryWeights(parameters), config)
    decoder = make_decoder(read, config, device, arithmetic, choose_kernels("auto", device))
    return CodecVocoder(decoder, config, device, most_frames=300)


@pytest.mark.parametrize("arithmetic", BOUNDS)
def test_a_round_is_what_a_cpu_decodes(tiny: CodecConfig, parameters: Tensors, arithmetic: str) -> None:
    reference = make(tiny, parameters, torch.device("cpu"), "float32")
    vocoder = make(tiny, parameters, torch.device("cuda"), arithmetic)
    for number, frames in enumerate(FRAMES):
        windows = [random_codes(size, tiny_config(), 10 * number + size) for size in frames]
        under_way = vocoder.begin(windows)
        later = vocoder.begin([random_codes(40, tiny_config(), 99)])
        for found, expected in zip(under_way(), reference.decode(windows), strict=True):
            assert np.linalg.norm(found - expected) <= BOUNDS[arithmetic] * np.linalg.norm(expected)
        later()


@pytest.mark.parametrize("arithmetic", BOUNDS)
def test_streaming_equals_offline_to_the_bit(tiny: CodecConfig, parameters: Tensors, arithmetic: str) -> None:
    vocoder = make(tiny, parameters, torch.device("cuda"), arithmetic)
    codes = random_codes(120, tiny_config())
    whole = vocoder.decode([codes])[0]
    context = vocoder.context_frames
    for first in range(0, 120, 24):
        start, end = max(0, first - context), min(120, first + 24 + context)
        # In company, and padded.
        window = vocoder.decode([random_codes(45, tiny_config(), 1), codes[start:end]])[1]
        chunk = window[(first - start) * 960 : (first - start + 24) * 960]
        np.testing.assert_array_equal(chunk, whole[first * 960 : (first + 24) * 960])

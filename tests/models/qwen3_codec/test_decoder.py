import pytest
import torch

from stentor.models.higgs_audio_codec.convolution import ReadWeight, Target
from stentor.models.qwen3_codec.config import QwenCodecConfig
from stentor.models.qwen3_codec.decoder import Decoder
from tests.models.qwen3_codec import reference
from tests.qwen3_codec_files import TINY_QWEN_CODEC


@pytest.fixture(scope="module")
def decoder(read: ReadWeight, config: QwenCodecConfig) -> Decoder:
    return Decoder(read, config, Target(torch.device("cpu"), torch.float32), longest=100)


def codes(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 64, (frames, 16), generator=torch.Generator().manual_seed(seed))


def test_samples_are_those_of_transformers(decoder: Decoder, read: ReadWeight) -> None:
    expected = reference.decode(read, TINY_QWEN_CODEC["decoder_config"], codes(60))
    found = decoder.samples(decoder.states(codes(60)[None]))[0].clamp(-1, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert 0.05 < expected.std() < 0.5


def test_what_stands_behind_changes_nothing(decoder: Decoder) -> None:
    both = torch.stack((torch.cat((codes(20), codes(13, seed=1))), codes(33, seed=2)))
    padded = decoder.samples(decoder.states(both))[0, : 20 * 1920]
    alone = decoder.samples(decoder.states(codes(20)[None]))[0]
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)

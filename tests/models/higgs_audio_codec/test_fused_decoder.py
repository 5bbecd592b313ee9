"""With a GPU's kernels and a GPU's order of work the decoder gives the reference's samples, ends included."""

import pytest
import torch

from stentor.models.higgs_audio_codec import convolution
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.convolution import Target
from stentor.models.higgs_audio_codec.decoder import Decoder
from stentor.models.higgs_audio_codec.weights import CodecWeights
from tests.layers.triton.interpreted import DEVICE
from tests.models.higgs_audio_codec.reference import MemoryWeights, Tensors, random_codes, tiny_config

fused = pytest.importorskip("stentor.layers.triton.fused")


def test_padded_windows_are_those_that_the_reference_decodes_alone(
    tiny: CodecConfig, parameters: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, lengths = CodecWeights(MemoryWeights(parameters), tiny), (6, 2, 5)
    codes = torch.stack([torch.from_numpy(random_codes(6, tiny_config(), seed)).long() for seed in range(3)])
    plain = Decoder(read, tiny, Target(torch.device("cpu"), torch.float32))
    monkeypatch.setattr(Target, "adds_bias", False)
    monkeypatch.setattr(convolution, "tuned", lambda x: False)
    decoder = Decoder(read, tiny, Target(torch.device(DEVICE), torch.float32, fused.FusedKernels()))
    found = decoder(codes, torch.tensor(lengths, dtype=torch.int16, device=DEVICE)).cpu()
    for row, length in enumerate(lengths):
        expected = plain(codes[row : row + 1, :length])[0]
        assert expected.std() > 0.03
        torch.testing.assert_close(found[row, : length * 960], expected, rtol=0, atol=1e-5)

"""With a GPU's kernels and a GPU's order of work the decoder gives the reference's samples, ends included."""

import pytest
import torch

from stentor.models.higgs_audio_codec import convolution
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.convolution import Target
from stentor.models.higgs_audio_codec.decoder import Decoder
from stentor.models.higgs_audio_codec.weights import CodecWeights
from tests.layers.triton.interpreted import DEVICE
from tests.layers.triton.test_fused import Launches
from tests.models.higgs_audio_codec.reference import MemoryWeights, Tensors, random_codes, tiny_config

fused = pytest.importorskip("stentor.layers.triton.fused")


@pytest.fixture
def decoder(tiny: CodecConfig, parameters: Tensors, monkeypatch: pytest.MonkeyPatch) -> Decoder:
    monkeypatch.setattr(Target, "adds_bias", False)
    monkeypatch.setattr(convolution, "tuned", lambda x: False)
    target = Target(torch.device(DEVICE), torch.float32, fused.FusedKernels())
    return Decoder(CodecWeights(MemoryWeights(parameters), tiny), tiny, target)


def test_padded_windows_are_those_that_the_reference_decodes_alone(
    decoder: Decoder, tiny: CodecConfig, parameters: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = (6, 2, 5)
    codes = torch.stack([torch.from_numpy(random_codes(6, tiny_config(), seed)).long() for seed in range(3)])
    found = decoder(codes, torch.tensor(lengths, dtype=torch.int16, device=DEVICE)).cpu()
    monkeypatch.undo()
    read = CodecWeights(MemoryWeights(parameters), tiny)
    plain = Decoder(read, tiny, Target(torch.device("cpu"), torch.float32))
    for row, length in enumerate(lengths):
        expected = plain(codes[row : row + 1, :length])[0]
        assert expected.std() > 0.03
        torch.testing.assert_close(found[row, : length * 960], expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(DEVICE != "cpu", reason="the interpreter counts")
def test_a_residual_unit_takes_five_launches_and_a_decode_a_hundred(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, lengths = torch.randn(2, 50, decoder._blocks[-1]._upsample._channels), torch.tensor([50, 7])
    with monkeypatch.context() as patch, torch.inference_mode(), Launches(patch) as of_a_unit:
        decoder._blocks[-1]._units[1](x, lengths)
    assert of_a_unit.count == 5
    codes, lengths = torch.zeros((2, 4, 8), dtype=torch.int64), torch.tensor([4, 2])
    with monkeypatch.context() as patch, Launches(patch) as of_all:
        decoder(codes, lengths)
    assert of_all.count <= 100

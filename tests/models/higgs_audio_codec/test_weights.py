import torch

from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.weights import CodecWeights, merge_weight_norm
from tests.models.higgs_audio_codec.reference import MemoryWeights, Tensors, original_layout

POSITION = "semantic_model.encoder.pos_conv_embed.conv.weight"
NORMED = ("parametrizations.weight.original0", "parametrizations.weight.original1")


def is_plain(name: str) -> bool:
    return "parametrizations" not in name


def test_both_layouts_give_the_same_parameters(tiny: CodecConfig, parameters: Tensors) -> None:
    plain = CodecWeights(MemoryWeights(parameters), tiny)
    original = CodecWeights(MemoryWeights(original_layout(parameters)), tiny)
    for name in filter(is_plain, parameters):
        torch.testing.assert_close(plain(name), parameters[name], rtol=0, atol=0)
        torch.testing.assert_close(original(name), parameters[name], rtol=1e-6, atol=1e-7)


def test_a_prefix_stands_before_every_name(tiny: CodecConfig, parameters: Tensors) -> None:
    bundled = {f"outer.{name}": value.bfloat16() for name, value in original_layout(parameters).items()}
    read = CodecWeights(MemoryWeights({**bundled, "body.norm.weight": torch.ones(3)}), tiny, "outer.")
    weight = read("acoustic_decoder.conv2.weight")
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, parameters["acoustic_decoder.conv2.weight"], rtol=2e-2, atol=1e-3)


def test_weight_normalisation_keeps_the_given_dimension(tiny: CodecConfig, parameters: Tensors) -> None:
    convolution = torch.nn.Conv1d(24, 24, 16, groups=4)
    torch.nn.utils.parametrizations.weight_norm(convolution, dim=2)
    magnitude, direction = (parameters[POSITION.replace("weight", name, 1)] for name in NORMED)
    convolution.parametrizations.weight.original0.data = magnitude  # type: ignore[union-attr]
    convolution.parametrizations.weight.original1.data = direction  # type: ignore[union-attr]
    merged = CodecWeights(MemoryWeights(parameters), tiny)(POSITION)
    torch.testing.assert_close(merged, convolution.weight.detach())


def test_merging_a_transposed_convolution_norms_over_its_outputs() -> None:
    convolution = torch.nn.utils.parametrizations.weight_norm(torch.nn.ConvTranspose1d(6, 3, 4))
    magnitude, direction = (
        convolution.parametrizations.weight.original0,
        convolution.parametrizations.weight.original1,
    )
    assert magnitude.shape == (6, 1, 1)
    magnitude.data *= 3.0
    torch.testing.assert_close(merge_weight_norm(magnitude, direction, 0), convolution.weight)

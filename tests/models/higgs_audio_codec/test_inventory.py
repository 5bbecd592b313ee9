import math
import subprocess
import sys

from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.inventory import (
    DECODE_PREFIXES,
    ENCODE_PREFIXES,
    expected_shapes,
    parts,
)
from tests.codec_tensors import TINY_CODEC, codec_shapes
from tests.models.higgs_audio_codec.reference import Tensors, original_layout


def shapes_of(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def count(shapes: dict[str, tuple[int, ...]], prefix: str) -> tuple[int, int]:
    chosen = [math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix)]
    return len(chosen), sum(chosen)


def test_the_real_bundle_has_528_tensors_of_201401321_numbers() -> None:
    wanted, optional = expected_shapes(CodecConfig.read())
    assert (len(wanted), sum(map(math.prod, wanted.values())), optional) == (528, 201_401_321, {})
    assert {prefix: count(wanted, prefix) for prefix in REAL_COUNTS} == REAL_COUNTS


REAL_COUNTS = {
    "acoustic_encoder.": (110, 51_314_496),
    "semantic_model.": (211, 94_371_712),
    "encoder_semantic.": (13, 14_747_136),
    "decoder_semantic.": (14, 16_516_608),
    "fc.": (2, 1_049_600),
    "fc1.": (2, 787_200),
    "fc2.": (2, 262_400),
    "quantizer.": (64, 2_114_056),
    "acoustic_decoder.": (110, 20_238_113),
}


def test_names_and_shapes_are_those_of_the_description(tiny: CodecConfig) -> None:
    assert expected_shapes(tiny)[0] == codec_shapes(TINY_CODEC)


def test_prefixes_divide_the_tensors_among_decoding_encoding_and_training(tiny: CodecConfig) -> None:
    unused = {
        name.split(".")[0]
        for name in expected_shapes(tiny)[0]
        if not name.startswith((*DECODE_PREFIXES, *ENCODE_PREFIXES))
    }
    assert unused == {"decoder_semantic", "fc1"}


def test_the_original_layout_is_recognised_by_its_names(tiny: CodecConfig, parameters: Tensors) -> None:
    found = shapes_of(original_layout(parameters))
    wanted, optional = expected_shapes(tiny, found)
    assert wanted | optional == found
    assert set(optional) == {"semantic_model.masked_spec_embed"}


def test_weight_normalised_names_are_recognised_in_either_spelling(
    tiny: CodecConfig, parameters: Tensors
) -> None:
    found = shapes_of(parameters)
    plain, transposed = "acoustic_encoder.conv1", "acoustic_decoder.block.0.conv_t1"
    for place, first, second in (
        (plain, "weight_g", "weight_v"),
        (transposed, "parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        shape = found.pop(f"{place}.weight")
        found[f"{place}.{first}"], found[f"{place}.{second}"] = (shape[0], 1, 1), shape
    wanted, optional = expected_shapes(tiny, found)
    assert wanted | optional == found


def test_plain_codebooks_need_no_training_buffers(tiny: CodecConfig, parameters: Tensors) -> None:
    found = shapes_of(parameters)
    for level in range(8):
        place = f"quantizer.quantizers.{level}.codebook"
        found[f"{place}.weight"] = found.pop(f"{place}.embed")
        for buffer in ("inited", "cluster_size", "embed_avg"):
            del found[f"{place}.{buffer}"]
    wanted, optional = expected_shapes(tiny, found)
    assert set(wanted) <= set(found) <= set(wanted) | set(optional)


def test_a_missing_tensor_is_wanted_under_its_usual_name(tiny: CodecConfig, parameters: Tensors) -> None:
    found = shapes_of(parameters)
    del found["acoustic_decoder.conv1.weight"], found["quantizer.quantizers.3.codebook.embed"]
    missing = expected_shapes(tiny, found)[0].keys() - found.keys()
    assert missing == {"acoustic_decoder.conv1.weight", "quantizer.quantizers.3.codebook.embed"}


def test_every_parameter_has_a_place_in_every_layout(tiny: CodecConfig, parameters: Tensors) -> None:
    for layout in (parameters, original_layout(parameters)):
        found = parts(tiny, layout)
        assert {name for part in found.values() for name in part.names} == set(layout)


def test_the_inventory_imports_no_torch() -> None:
    program = "import sys, stentor.models.higgs_audio_codec.inventory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

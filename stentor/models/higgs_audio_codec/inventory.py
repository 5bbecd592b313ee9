"""Every tensor of a codec, by name and shape, in each of the layouts that checkpoints use; needs no torch.

Names are given in transformers' layout (`acoustic_decoder.conv1.weight`), without the prefix that a bundled
codec has in its checkpoint. The original layout (`decoder_2.model.0.weight_v`) is recognised by its names.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from stentor.models.higgs_audio_codec.config import (
    RESIDUAL_DILATIONS,
    RESIDUAL_KERNEL,
    AcousticConfig,
    CodecConfig,
    SemanticConfig,
)

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

DECODE_PREFIXES = ("acoustic_decoder.", "quantizer.", "fc2.")
ENCODE_PREFIXES = ("acoustic_encoder.", "semantic_model.", "encoder_semantic.", "quantizer.", "fc.")
"""What is under neither was used in training only (`decoder_semantic.`, `fc1.`)."""

_ORIGINAL_MARK = "decoder_2."
_ORIGINAL_NETWORKS = {"acoustic_encoder": "encoder.block", "acoustic_decoder": "decoder_2.model"}
_ORIGINAL_HEADS = {"fc": "fc_prior", "fc1": "fc_post1", "fc2": "fc_post2"}
_POSITION_CONV = "semantic_model.encoder.pos_conv_embed.conv.weight"
_UNUSED_MASK = "semantic_model.masked_spec_embed"
_CODEBOOK = re.compile(r"(quantizer\.quantizers\.\d+\.codebook)\.(\w+)")


@dataclass(frozen=True)
class Part:
    """Where one parameter comes from: one tensor, or magnitude and direction of a weight normalisation.

    The norm is taken over all dimensions but `norm_dim`; None means that `names` is the parameter itself.
    """

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    norm_dim: int | None = None


def expected_shapes(config: CodecConfig, found: Collection[str] = ()) -> tuple[Shapes, Shapes]:
    """The tensors that a checkpoint must have and those that it may have, in the layout of its names `found`.

    Without names, those of the bundled codec of a real checkpoint: 528 in its size.
    """
    optional_names = {_UNUSED_MASK} if found else set()
    has_plain_codebooks = any(name.endswith(".codebook.weight") for name in found)
    wanted: Shapes = {}
    optional: Shapes = {}
    for name, part in parts(config, found).items():
        match = _CODEBOOK.fullmatch(name)
        if match and match[2] != "embed" and has_plain_codebooks:
            optional_names.add(name)
        place = optional if name in optional_names else wanted
        place.update(zip(part.names, part.shapes, strict=True))
    return wanted, optional


def parts(config: CodecConfig, found: Collection[str] = ()) -> dict[str, Part]:
    """By every parameter's name in transformers' layout: where a checkpoint with the names `found` has it."""
    is_original = any(name.startswith(_ORIGINAL_MARK) for name in found)
    num_blocks = len(config.acoustic.upsampling_ratios)
    chosen = {}
    for name, shape in _parameters(config).items():
        options = list(_forms(_original_name(name, num_blocks) if is_original else name, name, shape))
        present = (part for part in options if any(tensor in found for tensor in part.names))
        chosen[name] = next(present, options[0])
    return chosen


def _forms(stored: str, name: str, shape: Shape) -> Iterator[Part]:
    """The forms in which a parameter may be stored, the usual one first."""
    is_position = name == _POSITION_CONV
    is_normed = is_position or (name.startswith("acoustic_") and len(shape) == 3 and name.endswith(".weight"))
    plain = Part((stored,), (shape,))
    if not is_normed:
        yield plain
        match = _CODEBOOK.fullmatch(name)
        if match and match[2] == "embed":
            yield Part((stored.removesuffix("embed") + "weight",), (shape,))
        return
    norm_dim = 2 if is_position else 0
    magnitude = tuple(size if dim == norm_dim else 1 for dim, size in enumerate(shape))
    base = stored.removesuffix("weight")
    pairs = [
        Part((base + first, base + second), (magnitude, shape), norm_dim)
        for first, second in (
            ("parametrizations.weight.original0", "parametrizations.weight.original1"),
            ("weight_g", "weight_v"),
        )
    ]
    yield from (*pairs, plain) if is_position else (plain, *pairs)


def _original_name(name: str, num_blocks: int) -> str:
    """The same parameter's name in the original layout, where blocks and layers are counted through."""
    network, _, rest = name.partition(".")
    if network in _ORIGINAL_NETWORKS:
        return f"{_ORIGINAL_NETWORKS[network]}.{_original_place(network, rest, num_blocks)}"
    if network in _ORIGINAL_HEADS:
        return f"{_ORIGINAL_HEADS[network]}.{rest}"
    if network == "quantizer":
        return name.replace("quantizers.", "vq.layers.").replace(".codebook.", "._codebook.")
    if network in ("encoder_semantic", "decoder_semantic"):
        return re.sub(r"\.(conv\d?)\.(weight|bias)$", r".\1.conv.\2", name)
    return name


def _original_place(network: str, rest: str, num_blocks: int) -> str:
    outside = {"conv1": 0, "snake1": num_blocks + 1, "conv2": num_blocks + 2}
    layer, _, rest = rest.partition(".")
    if layer in outside:
        return f"{outside[layer]}.{rest}"
    block, layer, *leaf = rest.split(".")
    # The encoder's residual units come before the strided convolution, the decoder's after it.
    places, first_unit = (
        ({"snake1": 3, "conv1": 4}, 0) if network == "acoustic_encoder" else ({"snake1": 0, "conv_t1": 1}, 2)
    )
    place = f"{int(block) + 1}.block."
    if layer in places:
        return place + ".".join((str(places[layer]), *leaf))
    unit = int(layer.removeprefix("res_unit")) - 1 + first_unit
    inner = ("snake1", "conv1", "snake2", "conv2").index(leaf[0])
    return place + ".".join((str(unit), "block", str(inner), *leaf[1:]))


def _parameters(config: CodecConfig) -> Shapes:
    acoustic, semantic = config.acoustic, config.semantic
    shapes = {
        **_acoustic_encoder(acoustic),
        **_hubert(semantic),
        **_semantic("encoder_semantic", ("conv",), config),
        **_semantic("decoder_semantic", ("conv1", "conv2"), config),
        **_linear("fc", config.hidden_size, config.hidden_size),
        **_linear("fc1", config.hidden_size, semantic.hidden_size),
        **_linear("fc2", config.hidden_size, acoustic.hidden_size),
        **_acoustic_decoder(acoustic),
    }
    size, dim = config.codebook_size, config.codebook_dim
    for level in range(config.num_codebooks):
        place = f"quantizer.quantizers.{level}"
        shapes |= {f"{place}.codebook.inited": (1,), f"{place}.codebook.cluster_size": (size,)}
        shapes |= {f"{place}.codebook.embed": (size, dim), f"{place}.codebook.embed_avg": (size, dim)}
        shapes |= _linear(f"{place}.project_in", config.hidden_size, dim)
        shapes |= _linear(f"{place}.project_out", dim, config.hidden_size)
    return shapes


def _linear(place: str, in_size: int, out_size: int) -> Shapes:
    return {f"{place}.weight": (out_size, in_size), f"{place}.bias": (out_size,)}


def _norm(place: str, size: int) -> Shapes:
    return {f"{place}.weight": (size,), f"{place}.bias": (size,)}


def _conv(place: str, in_size: int, out_size: int, kernel: int) -> Shapes:
    return {f"{place}.weight": (out_size, in_size, kernel), f"{place}.bias": (out_size,)}


def _residual_units(place: str, size: int) -> Shapes:
    shapes: Shapes = {}
    for unit in range(1, 1 + len(RESIDUAL_DILATIONS)):
        inner = f"{place}.res_unit{unit}"
        shapes |= {f"{inner}.snake1.alpha": (1, size, 1), f"{inner}.snake2.alpha": (1, size, 1)}
        shapes |= _conv(f"{inner}.conv1", size, size, RESIDUAL_KERNEL) | _conv(
            f"{inner}.conv2", size, size, 1
        )
    return shapes


def _acoustic_encoder(config: AcousticConfig) -> Shapes:
    size = config.encoder_hidden_size
    shapes = _conv("acoustic_encoder.conv1", 1, size, 7)
    for number, stride in enumerate(config.downsampling_ratios):
        place = f"acoustic_encoder.block.{number}"
        shapes |= _residual_units(place, size) | {f"{place}.snake1.alpha": (1, size, 1)}
        shapes |= _conv(f"{place}.conv1", size, 2 * size, 2 * stride)
        size *= 2
    shapes["acoustic_encoder.snake1.alpha"] = (1, size, 1)
    return shapes | _conv("acoustic_encoder.conv2", size, config.hidden_size, 3)


def _acoustic_decoder(config: AcousticConfig) -> Shapes:
    size = config.decoder_hidden_size
    shapes = _conv("acoustic_decoder.conv1", config.hidden_size, size, 7)
    for number, stride in enumerate(config.upsampling_ratios):
        place = f"acoustic_decoder.block.{number}"
        shapes |= {
            f"{place}.snake1.alpha": (1, size, 1),
            f"{place}.conv_t1.weight": (size, size // 2, 2 * stride),
            f"{place}.conv_t1.bias": (size // 2,),
        }
        size //= 2
        shapes |= _residual_units(place, size)
    shapes["acoustic_decoder.snake1.alpha"] = (1, size, 1)
    return shapes | _conv("acoustic_decoder.conv2", size, 1, 7)


def _semantic(place: str, outer_convs: tuple[str, ...], config: CodecConfig) -> Shapes:
    """The convolutions between HuBERT's states and the fused latents; the outer ones have no bias."""
    size = config.semantic.hidden_size
    shapes: Shapes = {f"{place}.{name}.weight": (size, size, config.semantic_kernel) for name in outer_convs}
    for block in range(config.num_semantic_blocks):
        inner = f"{place}.conv_blocks.{block}"
        shapes |= _conv(f"{inner}.conv", size, size, 3)
        for unit in range(len(config.semantic_dilations)):
            shapes[f"{inner}.res_units.{unit}.conv1.weight"] = (size, size, config.semantic_unit_kernel)
            shapes[f"{inner}.res_units.{unit}.conv2.weight"] = (size, size, 1)
    return shapes


def _hubert(config: SemanticConfig) -> Shapes:
    size = config.hidden_size
    shapes: Shapes = {_UNUSED_MASK: (size,)}
    inputs = 1
    for number, (outputs, kernel) in enumerate(zip(config.conv_dim, config.conv_kernel, strict=True)):
        shapes[f"semantic_model.feature_extractor.conv_layers.{number}.conv.weight"] = (
            outputs,
            inputs,
            kernel,
        )
        inputs = outputs
    shapes |= _norm("semantic_model.feature_extractor.conv_layers.0.layer_norm", config.conv_dim[0])
    shapes |= _norm("semantic_model.feature_projection.layer_norm", inputs)
    shapes |= _linear("semantic_model.feature_projection.projection", inputs, size)
    shapes |= _conv(
        "semantic_model.encoder.pos_conv_embed.conv",
        size // config.position_groups,
        size,
        config.position_kernel,
    )
    shapes |= _norm("semantic_model.encoder.layer_norm", size)
    for layer in range(config.num_layers):
        place = f"semantic_model.encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{place}.attention.{part}", size, size)
        shapes |= _norm(f"{place}.layer_norm", size) | _norm(f"{place}.final_layer_norm", size)
        shapes |= _linear(f"{place}.feed_forward.intermediate_dense", size, config.intermediate_size)
        shapes |= _linear(f"{place}.feed_forward.output_dense", config.intermediate_size, size)
    return shapes

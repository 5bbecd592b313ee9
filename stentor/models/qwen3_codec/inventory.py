"""Every tensor of a codec's own file, by name and shape; needs no torch."""

import math
from pathlib import Path

from stentor.models.fields import Fields
from stentor.models.qwen3_codec.config import (
    FOLDER,
    KERNEL,
    PRE_KERNEL,
    RESIDUAL_DILATIONS,
    DecoderConfig,
    QwenCodecConfig,
)
from stentor.models.weights import Checkpoint, check_shapes, open_checkpoint

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


def expected_shapes(config: QwenCodecConfig) -> Shapes:
    """What `speech_tokenizer/model.safetensors` holds: no more and no less."""
    encoder, decoder = _encoder(config.encoder), _decoder(config.decoder, config)
    return {f"encoder.{name}": shape for name, shape in encoder.items()} | {
        f"decoder.{name}": shape for name, shape in decoder.items()
    }


def open_codec(checkpoint: Path, config: QwenCodecConfig) -> Checkpoint:
    """The codec's tensors in a checkpoint's folder, once they have been seen to be all there.

    Raises:
        CheckpointError: they are not, or a file is damaged.
    """
    found = open_checkpoint(checkpoint / FOLDER)
    check_shapes(found.folder, found.shapes, expected_shapes(config))
    return found


def decoding_numbers(config: QwenCodecConfig) -> int:
    """Numbers that decoding keeps, nearly: those of the decoder."""
    return sum(math.prod(shape) for shape in _decoder(config.decoder, config).values())


def _conv(place: str, outputs: int, inputs: int, kernel: int) -> Shapes:
    return {f"{place}.conv.weight": (outputs, inputs, kernel), f"{place}.conv.bias": (outputs,)}


def _linear(place: str, outputs: int, inputs: int) -> Shapes:
    return {f"{place}.weight": (outputs, inputs), f"{place}.bias": (outputs,)}


def _norm(place: str, size: int) -> Shapes:
    return {f"{place}.weight": (size,), f"{place}.bias": (size,)}


def _layer(place: str, size: int, heads: int, kv_heads: int, dim: int) -> Shapes:
    """What both transformers have in a layer."""
    attention = f"{place}.self_attn"
    shapes: Shapes = {f"{attention}.{name}_proj.weight": (kv_heads * dim, size) for name in "kv"}
    shapes[f"{attention}.q_proj.weight"] = (heads * dim, size)
    shapes[f"{attention}.o_proj.weight"] = (size, heads * dim)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"{place}.{norm}.weight"] = (size,)
    return shapes | {f"{place}.{part}_layer_scale.scale": (size,) for part in ("self_attn", "mlp")}


def _decoder(config: DecoderConfig, codec: QwenCodecConfig) -> Shapes:
    size, dim = config.codebook_dim, config.codebook_dim // 2
    shapes = _conv("pre_conv", config.latent_size, size, PRE_KERNEL)
    for kind, levels in (("first", 1), ("rest", codec.num_codebooks - 1)):
        place = f"quantizer.rvq_{kind}"
        shapes |= {
            f"{place}.input_proj.weight": (dim, size, 1),
            f"{place}.output_proj.weight": (size, dim, 1),
        }
        for level in range(levels):
            book = f"{place}.vq.layers.{level}._codebook"
            shapes[f"{book}.cluster_usage"] = (codec.codebook_size,)
            shapes[f"{book}.embedding_sum"] = (codec.codebook_size, dim)
    shapes |= _transformer("pre_transformer", config)
    for number, ratio in enumerate(config.upsampling_ratios):
        shapes |= _upsampling(f"upsample.{number}", config.latent_size, ratio)
    size = config.decoder_size
    shapes |= _conv("decoder.0", size, config.latent_size, KERNEL)
    for number, rate in enumerate(config.rates, start=1):
        place = f"decoder.{number}.block"
        shapes |= _snake(f"{place}.0", size)
        # A transposed convolution's inputs come first.
        shapes |= {
            f"{place}.1.conv.weight": (size, size // 2, 2 * rate),
            f"{place}.1.conv.bias": (size // 2,),
        }
        size //= 2
        for unit in range(2, 2 + len(RESIDUAL_DILATIONS)):
            inner = f"{place}.{unit}"
            shapes |= _snake(f"{inner}.act1", size) | _snake(f"{inner}.act2", size)
            shapes |= _conv(f"{inner}.conv1", size, size, KERNEL) | _conv(f"{inner}.conv2", size, size, 1)
    last = len(config.rates) + 1
    return shapes | _snake(f"decoder.{last}", size) | _conv(f"decoder.{last + 1}", 1, size, KERNEL)


def _snake(place: str, size: int) -> Shapes:
    return {f"{place}.alpha": (size,), f"{place}.beta": (size,)}


def _transformer(place: str, config: DecoderConfig) -> Shapes:
    size, inner = config.hidden_size, config.intermediate_size
    shapes = _linear(f"{place}.input_proj", size, config.latent_size) | {f"{place}.norm.weight": (size,)}
    for layer in range(config.num_layers):
        mlp = f"{place}.layers.{layer}.mlp"
        heads = config.num_heads, config.num_kv_heads, config.head_dim
        shapes |= _layer(f"{place}.layers.{layer}", size, *heads)
        shapes |= {f"{mlp}.gate_proj.weight": (inner, size), f"{mlp}.up_proj.weight": (inner, size)}
        shapes[f"{mlp}.down_proj.weight"] = (size, inner)
    return shapes | _linear(f"{place}.output_proj", config.latent_size, size)


def _upsampling(place: str, size: int, ratio: int) -> Shapes:
    shapes = _conv(f"{place}.0", size, size, ratio) | _conv(f"{place}.1.dwconv", size, 1, KERNEL)
    shapes |= _norm(f"{place}.1.norm", size) | {f"{place}.1.gamma": (size,)}
    return (
        shapes | _linear(f"{place}.1.pwconv1", 4 * size, size) | _linear(f"{place}.1.pwconv2", size, 4 * size)
    )


def _encoder(fields: Fields) -> Shapes:
    """Mimi's, as transformers called them when the checkpoints were written."""
    size, number, compress = fields.size("num_filters", 64), 1, fields.size("compress", 2)
    shapes = _conv("encoder.layers.0", size, 1, fields.size("kernel_size", 7))
    for ratio in reversed(fields.sizes("upsampling_ratios", (8, 6, 5, 4))):
        for _ in range(fields.size("num_residual_layers", 1)):
            place, inner = f"encoder.layers.{number}.block", size // compress
            shapes |= _conv(f"{place}.1", inner, size, fields.size("residual_kernel_size", 3))
            shapes |= _conv(f"{place}.3", size, inner, 1)
            number += 1
        # An activation has a number too.
        shapes |= _conv(f"encoder.layers.{number + 1}", 2 * size, size, 2 * ratio)
        size, number = 2 * size, number + 2
    hidden = fields.size("hidden_size", 512)
    shapes |= _conv(f"encoder.layers.{number + 1}", hidden, size, fields.size("last_kernel_size", 3))
    inner, heads = fields.size("intermediate_size", 2048), fields.size("num_attention_heads", 8)
    grouped, dim = fields.size("num_key_value_heads", 8), fields.size("head_dim", hidden // heads)
    for layer in range(fields.size("num_hidden_layers", 8)):
        place = f"encoder_transformer.layers.{layer}"
        shapes |= _layer(place, hidden, heads, grouped, dim)
        shapes |= _norm(f"{place}.input_layernorm", hidden) | _norm(
            f"{place}.post_attention_layernorm", hidden
        )
        shapes |= {f"{place}.mlp.fc1.weight": (inner, hidden), f"{place}.mlp.fc2.weight": (hidden, inner)}
    shapes["downsample.conv.weight"] = (hidden, hidden, 4)
    entries, dim = fields.size("codebook_size", 2048), fields.size("codebook_dim", 256)
    for kind, levels in (("semantic", 1), ("acoustic", fields.size("num_quantizers", 32) - 1)):
        place = f"quantizer.{kind}_residual_vector_quantizer"
        shapes |= {
            f"{place}.input_proj.weight": (dim, hidden, 1),
            f"{place}.output_proj.weight": (hidden, dim, 1),
        }
        for level in range(levels):
            book = f"{place}.layers.{level}.codebook"
            shapes |= {f"{book}.initialized": (1,), f"{book}.cluster_usage": (entries,)}
            shapes[f"{book}.embed_sum"] = (entries, dim)
    return shapes

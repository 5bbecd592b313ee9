"""Names and shapes of the codec's tensors, written out from the format's description."""

from typing import Any

Shapes = dict[str, tuple[int, ...]]

TINY_CODEC: dict[str, Any] = {
    "model_type": "higgs_audio_v2_tokenizer",
    "sample_rate": 24000,
    "semantic_sample_rate": 16000,
    "downsample_factor": 320,
    "codebook_size": 1024,
    "codebook_dim": 8,
    "target_bandwidths": [0.5, 1, 1.5, 2],
    "kernel_size": 3,
    "unit_kernel_size": 3,
    "strides": [1, 1],
    "channel_ratios": [1, 1],
    "block_dilations": [1, 1],
    "initializer_range": 0.02,
    "acoustic_model_config": {
        "model_type": "dac",
        "encoder_hidden_size": 4,
        "decoder_hidden_size": 64,
        "hidden_size": 16,
        "downsampling_ratios": [8, 5, 4, 2, 3],
        "upsampling_ratios": [8, 5, 4, 2, 3],
        "hop_length": 960,
    },
    "semantic_model_config": {
        "model_type": "hubert",
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": [8] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "conv_bias": False,
        "feat_extract_norm": "group",
        "feat_proj_layer_norm": True,
        "do_stable_layer_norm": False,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "mask_time_prob": 0.0,
    },
}
"""A codec of a third of a million numbers, with the real ratios, codebook size and number of codebooks."""


def codec_shapes(config: dict[str, Any]) -> Shapes:
    """Every tensor of a codec with this configuration, without the prefix it has in a bundled checkpoint."""
    acoustic, semantic = config["acoustic_model_config"], config["semantic_model_config"]
    acoustic_dim, semantic_dim = acoustic["hidden_size"], semantic["hidden_size"]
    hidden = acoustic_dim + semantic_dim
    shapes = _acoustic_encoder(acoustic) | _acoustic_decoder(acoustic) | _hubert(semantic)
    shapes |= _semantic("encoder_semantic", semantic_dim, config) | _semantic(
        "decoder_semantic", semantic_dim, config
    )
    shapes |= (
        _linear("fc", hidden, hidden)
        | _linear("fc1", semantic_dim, hidden)
        | _linear("fc2", acoustic_dim, hidden)
    )
    size, dim = config["codebook_size"], config["codebook_dim"]
    for level in range(8):
        place = f"quantizer.quantizers.{level}"
        shapes |= {f"{place}.codebook.inited": (1,), f"{place}.codebook.cluster_size": (size,)}
        shapes |= {f"{place}.codebook.embed": (size, dim), f"{place}.codebook.embed_avg": (size, dim)}
        shapes |= _linear(f"{place}.project_in", dim, hidden) | _linear(f"{place}.project_out", hidden, dim)
    return shapes


def _linear(place: str, out_dim: int, in_dim: int) -> Shapes:
    return {f"{place}.weight": (out_dim, in_dim), f"{place}.bias": (out_dim,)}


def _conv(place: str, out_dim: int, in_dim: int, kernel: int) -> Shapes:
    return {f"{place}.weight": (out_dim, in_dim, kernel), f"{place}.bias": (out_dim,)}


def _residual_units(place: str, dim: int) -> Shapes:
    shapes: Shapes = {}
    for unit in (1, 2, 3):
        inner = f"{place}.res_unit{unit}"
        shapes |= {f"{inner}.snake1.alpha": (1, dim, 1), f"{inner}.snake2.alpha": (1, dim, 1)}
        shapes |= _conv(f"{inner}.conv1", dim, dim, 7) | _conv(f"{inner}.conv2", dim, dim, 1)
    return shapes


def _acoustic_encoder(config: dict[str, Any]) -> Shapes:
    dim = config["encoder_hidden_size"]
    shapes = _conv("acoustic_encoder.conv1", dim, 1, 7)
    for number, stride in enumerate(config["downsampling_ratios"]):
        place = f"acoustic_encoder.block.{number}"
        shapes |= _residual_units(place, dim) | {f"{place}.snake1.alpha": (1, dim, 1)}
        shapes |= _conv(f"{place}.conv1", dim * 2, dim, 2 * stride)
        dim *= 2
    shapes["acoustic_encoder.snake1.alpha"] = (1, dim, 1)
    return shapes | _conv("acoustic_encoder.conv2", config["hidden_size"], dim, 3)


def _acoustic_decoder(config: dict[str, Any]) -> Shapes:
    dim = config["decoder_hidden_size"]
    shapes = _conv("acoustic_decoder.conv1", dim, config["hidden_size"], 7)
    for number, stride in enumerate(config["upsampling_ratios"]):
        place = f"acoustic_decoder.block.{number}"
        shapes[f"{place}.snake1.alpha"] = (1, dim, 1)
        shapes |= {
            f"{place}.conv_t1.weight": (dim, dim // 2, 2 * stride),
            f"{place}.conv_t1.bias": (dim // 2,),
        }
        dim //= 2
        shapes |= _residual_units(place, dim)
    shapes["acoustic_decoder.snake1.alpha"] = (1, dim, 1)
    return shapes | _conv("acoustic_decoder.conv2", 1, dim, 7)


def _semantic(place: str, dim: int, config: dict[str, Any]) -> Shapes:
    """Convolutions around the semantic latents: one before the blocks; the decoder has one more after."""
    kernel, unit_kernel = config["kernel_size"], config["unit_kernel_size"]
    shapes: Shapes = {}
    for block in range(len(config["strides"])):
        inner = f"{place}.conv_blocks.{block}"
        shapes |= _conv(f"{inner}.conv", dim, dim, 3)
        for unit in range(len(config["block_dilations"])):
            shapes[f"{inner}.res_units.{unit}.conv1.weight"] = (dim, dim, unit_kernel)
            shapes[f"{inner}.res_units.{unit}.conv2.weight"] = (dim, dim, 1)
    for name in ("conv",) if place == "encoder_semantic" else ("conv1", "conv2"):
        shapes[f"{place}.{name}.weight"] = (dim, dim, kernel)
    return shapes


def _hubert(config: dict[str, Any]) -> Shapes:
    dim, inner = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {"masked_spec_embed": (dim,)}
    in_dim = 1
    for number, (out_dim, kernel) in enumerate(zip(config["conv_dim"], config["conv_kernel"], strict=True)):
        shapes[f"feature_extractor.conv_layers.{number}.conv.weight"] = (out_dim, in_dim, kernel)
        in_dim = out_dim
    shapes |= _norm("feature_extractor.conv_layers.0.layer_norm", config["conv_dim"][0])
    shapes |= _norm("feature_projection.layer_norm", in_dim) | _linear(
        "feature_projection.projection", dim, in_dim
    )
    taps, groups = config["num_conv_pos_embeddings"], config["num_conv_pos_embedding_groups"]
    place = "encoder.pos_conv_embed.conv"
    shapes[f"{place}.bias"] = (dim,)
    shapes[f"{place}.parametrizations.weight.original0"] = (1, 1, taps)
    shapes[f"{place}.parametrizations.weight.original1"] = (dim, dim // groups, taps)
    shapes |= _norm("encoder.layer_norm", dim)
    for layer in range(config["num_hidden_layers"]):
        place = f"encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{place}.attention.{part}", dim, dim)
        shapes |= _norm(f"{place}.layer_norm", dim) | _norm(f"{place}.final_layer_norm", dim)
        shapes |= _linear(f"{place}.feed_forward.intermediate_dense", inner, dim)
        shapes |= _linear(f"{place}.feed_forward.output_dense", dim, inner)
    return {f"semantic_model.{name}": shape for name, shape in shapes.items()}


def _norm(place: str, dim: int) -> Shapes:
    return {f"{place}.weight": (dim,), f"{place}.bias": (dim,)}

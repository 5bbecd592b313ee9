"""The codec's configuration file (`higgs_audio_v2_tokenizer.json`) and the numbers that follow from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stentor.models.fields import Fields

FILE_NAME = "higgs_audio_v2_tokenizer.json"
# The real codec's own; checkpoints of the full size do not carry it.
PACKAGED = Path(__file__).with_name(FILE_NAME)

RESIDUAL_DILATIONS = (1, 3, 9)
RESIDUAL_KERNEL = 7
_EDGE_KERNEL = 7
# Shorter clips are lengthened by silence to this, as the servers do that the model is used with.
_SHORTEST_S = 1.0
# Signals of a block's output size that are alive at once while it is computed, at most.
_LIVE_SIGNALS = 6
# Switches of HuBERT that change its graph, with the only value that is known to be used with this codec.
_FIXED_SEMANTIC_SWITCHES = {
    "conv_bias": False,
    "do_stable_layer_norm": False,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
}


@dataclass(frozen=True)
class AcousticConfig:
    """The two convolutional networks between waveform and latents; ratios are the strides, in order."""

    encoder_hidden_size: int
    decoder_hidden_size: int
    hidden_size: int
    downsampling_ratios: tuple[int, ...]
    upsampling_ratios: tuple[int, ...]


@dataclass(frozen=True)
class SemanticConfig:
    """HuBERT's geometry; `values` are all its fields, for the library that builds it."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    conv_dim: tuple[int, ...]
    conv_kernel: tuple[int, ...]
    position_kernel: int
    position_groups: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class CodecConfig:
    """The geometry of the whole codec: mono waveforms at `sample_rate_hz` to frames of codes and back."""

    acoustic: AcousticConfig
    semantic: SemanticConfig
    sample_rate_hz: int
    semantic_rate_hz: int
    semantic_hop: int
    codebook_size: int
    codebook_dim: int
    num_codebooks: int
    semantic_kernel: int
    semantic_unit_kernel: int
    num_semantic_blocks: int
    semantic_dilations: tuple[int, ...]

    @property
    def samples_per_frame(self) -> int:
        """Samples that one frame of codes stands for."""
        return math.prod(self.acoustic.upsampling_ratios)

    @property
    def hidden_size(self) -> int:
        """Width of the fused latents, acoustic and semantic."""
        return self.acoustic.hidden_size + self.semantic.hidden_size

    @property
    def semantic_steps_per_frame(self) -> int:
        """Time steps of HuBERT in one frame."""
        return self.samples_per_frame * self.semantic_rate_hz // (self.sample_rate_hz * self.semantic_hop)

    @property
    def context_frames(self) -> int:
        """Frames on either side of a frame that its samples depend on, for exact decoding by windows."""
        return context_frames(self.acoustic.upsampling_ratios)

    def decoding_bytes(self, frames: int, number_bytes: int) -> int:
        """Memory that decoding so many frames at once takes beside the weights, at most."""
        channels, steps, largest = self.acoustic.decoder_hidden_size, frames, 0
        for stride in self.acoustic.upsampling_ratios:
            channels, steps = channels // 2, steps * stride
            largest = max(largest, channels * steps)
        return _LIVE_SIGNALS * largest * number_bytes

    def padded_length(self, num_samples: int) -> int:
        """Samples of a clip once it is lengthened for encoding: whole frames, at least one second."""
        frame = self.samples_per_frame
        return -(-max(num_samples, round(_SHORTEST_S * self.sample_rate_hz)) // frame) * frame

    @classmethod
    def of_checkpoint(cls, folder: Path) -> "CodecConfig":
        """The configuration beside a checkpoint's `config.json`; the real codec's where there is none."""
        path = folder / FILE_NAME
        return cls.read(path if path.exists() else None)

    @classmethod
    def read(cls, path: Path | None = None) -> "CodecConfig":
        """Read a configuration file; the real codec's if no path is given.

        Raises:
            CheckpointError: it is damaged, lacks a field, or describes a network that is not supported.
        """
        fields = Fields.read(path or PACKAGED)
        acoustic = _read_acoustic(fields.section("acoustic_model_config"))
        rate_hz, codebook_size = fields.size("sample_rate"), fields.size("codebook_size")
        strides, widths = fields.sizes("strides"), fields.get("channel_ratios", list)
        if {*strides, *widths} != {1} or len(strides) != len(widths):
            raise fields.error(
                "strides and channel_ratios must be ones, as many of each: others are not supported"
            )
        config = cls(
            acoustic=acoustic,
            semantic=_read_semantic(fields.section("semantic_model_config")),
            sample_rate_hz=rate_hz,
            semantic_rate_hz=fields.size("semantic_sample_rate"),
            semantic_hop=fields.size("downsample_factor"),
            codebook_size=codebook_size,
            codebook_dim=fields.size("codebook_dim"),
            num_codebooks=_num_codebooks(
                fields, rate_hz, math.prod(acoustic.upsampling_ratios), codebook_size
            ),
            semantic_kernel=fields.size("kernel_size"),
            semantic_unit_kernel=fields.size("unit_kernel_size"),
            num_semantic_blocks=len(strides),
            semantic_dilations=fields.sizes("block_dilations"),
        )
        _check_rates(config, fields)
        return config


def context_frames(ratios: tuple[int, ...]) -> int:
    """How many frames on either side of frame 0 reach its samples, for a decoder with these strides.

    Follows the samples of one frame back through the layers: a convolution of odd kernel k and dilation d
    widens the span by d * (k - 1) / 2 on both sides; a transposed one of kernel 2s, stride s and padding
    ceil(s / 2) needs the inputs from ceil((first + padding + 1) / s) - 2 to floor((last + padding) / s).
    """
    first, last = 0, math.prod(ratios) - 1
    widening = sum(dilation * (RESIDUAL_KERNEL // 2) for dilation in RESIDUAL_DILATIONS)
    first, last = first - _EDGE_KERNEL // 2, last + _EDGE_KERNEL // 2
    for stride in reversed(ratios):
        padding = math.ceil(stride / 2)
        first, last = first - widening + padding, last + widening + padding
        first, last = -(-(first + 1) // stride) - 2, last // stride
    first, last = first - _EDGE_KERNEL // 2, last + _EDGE_KERNEL // 2
    return max(-first, last)


def _read_acoustic(fields: Fields) -> AcousticConfig:
    config = AcousticConfig(
        encoder_hidden_size=fields.size("encoder_hidden_size"),
        decoder_hidden_size=fields.size("decoder_hidden_size"),
        hidden_size=fields.size("hidden_size"),
        downsampling_ratios=fields.sizes("downsampling_ratios"),
        upsampling_ratios=fields.sizes("upsampling_ratios"),
    )
    hop = math.prod(config.upsampling_ratios)
    if hop != math.prod(config.downsampling_ratios) or hop != fields.size("hop_length", hop):
        raise fields.error(
            "acoustic_model_config: downsampling_ratios, upsampling_ratios and hop_length do not agree: "
            "the products of both lists must be the hop length"
        )
    if config.decoder_hidden_size % 2 ** len(config.upsampling_ratios):
        raise fields.error(
            f"acoustic_model_config.decoder_hidden_size is {config.decoder_hidden_size}; it is halved "
            f"{len(config.upsampling_ratios)} times and must remain whole"
        )
    return config


def _read_semantic(fields: Fields) -> SemanticConfig:
    for name, wanted in _FIXED_SEMANTIC_SWITCHES.items():
        if fields.get(name, bool, wanted) is not wanted:
            raise fields.error(
                f"semantic_model_config.{name} must be {str(wanted).lower()}: else is not supported"
            )
    if fields.get("feat_extract_norm", str, "group") != "group":
        raise fields.error("semantic_model_config.feat_extract_norm must be 'group': else is not supported")
    config = SemanticConfig(
        hidden_size=fields.size("hidden_size"),
        num_layers=fields.size("num_hidden_layers"),
        num_heads=fields.size("num_attention_heads"),
        intermediate_size=fields.size("intermediate_size"),
        conv_dim=fields.sizes("conv_dim"),
        conv_kernel=fields.sizes("conv_kernel"),
        position_kernel=fields.size("num_conv_pos_embeddings"),
        position_groups=fields.size("num_conv_pos_embedding_groups"),
        values=fields.values,
    )
    if len(config.conv_dim) != len(config.conv_kernel):
        raise fields.error("semantic_model_config: conv_dim and conv_kernel must be of equal length")
    return config


def _num_codebooks(fields: Fields, rate_hz: int, hop: int, codebook_size: int) -> int:
    """As many as the highest bandwidth (kbit/s) pays for, at log2(codebook_size) bits per code."""
    bandwidths = fields.get("target_bandwidths", list)
    bits_per_s = math.ceil(rate_hz / hop) * math.ceil(math.log2(codebook_size))
    count = int(1000 * bandwidths[-1] // bits_per_s) if bandwidths and bits_per_s else 0
    if count < 1:
        raise fields.error(
            f"target_bandwidths is {bandwidths}: the last one does not pay for a single codebook"
        )
    return count


def _check_rates(config: CodecConfig, fields: Fields) -> None:
    step = config.sample_rate_hz * config.semantic_hop
    if config.samples_per_frame * config.semantic_rate_hz % step:
        raise fields.error(
            f"a frame of {config.samples_per_frame} samples at {config.sample_rate_hz} Hz is no whole number "
            f"of semantic steps ({config.semantic_hop} samples at {config.semantic_rate_hz} Hz)"
        )

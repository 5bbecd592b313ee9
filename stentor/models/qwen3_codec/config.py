"""The codec's configuration (`speech_tokenizer/config.json`) and the numbers that follow from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stentor.models.fields import Fields

FOLDER = "speech_tokenizer"
MODEL_TYPE = "qwen3_tts_tokenizer_12hz"
RESIDUAL_DILATIONS = (1, 3, 9)
KERNEL = 7
PRE_KERNEL = 3

# Signals of a block's output size that are alive at once while it is computed, at most.
_LIVE_SIGNALS = 6
# What would change a network's graph, with the only value that is known to be used.
_FIXED_DECODER = {"attention_bias": False, "hidden_act": "silu"}
_FIXED_ENCODER = {
    "attention_bias": False,
    "audio_channels": 1,
    "hidden_act": "gelu",
    "use_causal_conv": True,
    "use_conv_shortcut": False,
    "num_semantic_quantizers": 1,
}


@dataclass(frozen=True)
class DecoderConfig:
    """A transformer whose layers see a frame and the `window` - 1 before it, then convolutions.

    `upsampling_ratios` are the strides up to the first convolution, `rates` those behind it.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    window: int
    norm_eps: float
    rope_theta: float
    codebook_dim: int
    latent_size: int
    decoder_size: int
    upsampling_ratios: tuple[int, ...]
    rates: tuple[int, ...]


@dataclass(frozen=True)
class QwenCodecConfig:
    """The geometry of the whole codec: mono waveforms at `sample_rate_hz` to frames of codes and back.

    `encoder` are the fields of Mimi's (arXiv:2410.00037), for the library that builds it.
    """

    decoder: DecoderConfig
    encoder: Fields
    sample_rate_hz: int
    samples_per_frame: int
    num_codebooks: int
    codebook_size: int

    @property
    def near_frames(self) -> int:
        """Frames before a frame that the convolutions behind the transformer look at for its samples."""
        steps = KERNEL - 1
        for rate in reversed(self.decoder.rates):
            steps += (KERNEL - 1) * sum(RESIDUAL_DILATIONS)
            # A transposed convolution looks at the input of its output and at the one before.
            steps = -(-steps // rate) + 1
        steps += KERNEL - 1
        for ratio in reversed(self.decoder.upsampling_ratios):
            steps = -(-(steps + KERNEL - 1) // ratio)
        return steps

    @property
    def context_frames(self) -> int:
        """Frames before a frame that its samples depend on; on those behind it they do not."""
        decoder = self.decoder
        return self.near_frames + decoder.num_layers * (decoder.window - 1) + PRE_KERNEL - 1

    def decoding_bytes(self, frames: int, number_bytes: int) -> int:
        """Memory that decoding so many frames at once takes beside the weights, at most."""
        channels, steps, largest = self.decoder.decoder_size, math.prod(self.decoder.upsampling_ratios), 0
        for rate in self.decoder.rates:
            channels, steps = channels // 2, steps * rate
            largest = max(largest, channels * steps)
        return _LIVE_SIGNALS * largest * frames * number_bytes

    def padded_length(self, num_samples: int) -> int:
        """Samples of a clip once it is lengthened for encoding: whole frames, at least one."""
        return -(-max(num_samples, 1) // self.samples_per_frame) * self.samples_per_frame

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> "QwenCodecConfig":
        """The configuration of the codec in a checkpoint's folder.

        Raises:
            CheckpointError: it is missing or damaged, lacks a field, or describes what is not supported.
        """
        fields = Fields.read(checkpoint / FOLDER / "config.json")
        _check_fixed(fields, {"model_type": MODEL_TYPE})
        decoder = fields.section("decoder_config")
        config = cls(
            decoder=_read_decoder(decoder),
            encoder=fields.section("encoder_config"),
            sample_rate_hz=fields.size("output_sample_rate", 24_000),
            samples_per_frame=fields.size("decode_upsample_rate", 1920),
            num_codebooks=decoder.size("num_quantizers", 16),
            codebook_size=decoder.size("codebook_size", 2048),
        )
        _check(config, fields)
        return config


def _check_fixed(fields: Fields, values: Mapping[str, Any]) -> None:
    for name, wanted in values.items():
        if fields.get(name, type(wanted), None if name == "model_type" else wanted) != wanted:
            raise fields.error(f"{fields.prefix}{name} must be {wanted!r}: else is not supported")


def _read_decoder(fields: Fields) -> DecoderConfig:
    _check_fixed(fields, _FIXED_DECODER)
    hidden_size, num_heads = fields.size("hidden_size", 1024), fields.size("num_attention_heads", 16)
    config = DecoderConfig(
        hidden_size=hidden_size,
        num_layers=fields.size("num_hidden_layers", 8),
        num_heads=num_heads,
        num_kv_heads=fields.size("num_key_value_heads", 16),
        head_dim=fields.size("head_dim", hidden_size // num_heads),
        intermediate_size=fields.size("intermediate_size", 3072),
        window=fields.size("sliding_window", 72),
        norm_eps=fields.get("rms_norm_eps", float, 1e-5),
        rope_theta=fields.get("rope_theta", float, 10_000.0),
        codebook_dim=fields.size("codebook_dim"),
        latent_size=fields.size("latent_dim", 1024),
        decoder_size=fields.size("decoder_dim", 1536),
        upsampling_ratios=fields.sizes("upsampling_ratios", (2, 2)),
        rates=fields.sizes("upsample_rates", (8, 5, 4, 3)),
    )
    if config.decoder_size % 2 ** len(config.rates) or config.codebook_dim % 2:
        raise fields.error(
            "decoder_config: codebook_dim is halved and decoder_dim halved for each of upsample_rates: "
            "both must remain whole"
        )
    return config


def _check(config: QwenCodecConfig, fields: Fields) -> None:
    decoder, encoder, frame = config.decoder, config.encoder, config.samples_per_frame
    _check_fixed(encoder, _FIXED_ENCODER)
    # Mimi's last convolution halves the rate.
    heard = 2 * math.prod(encoder.sizes("upsampling_ratios", (8, 6, 5, 4)))
    said = math.prod(decoder.upsampling_ratios + decoder.rates)
    if {heard, said, fields.size("encode_downsample_rate", frame)} != {frame}:
        raise fields.error(
            f"decode_upsample_rate is {frame}, but it, encode_downsample_rate, the product of the decoder's "
            "upsampling_ratios and upsample_rates and twice that of the encoder's must be one number"
        )
    if fields.size("input_sample_rate", config.sample_rate_hz) != config.sample_rate_hz:
        raise fields.error("input_sample_rate must be output_sample_rate: else is not supported")
    count = min(fields.size("encoder_valid_num_quantizers", 16), encoder.size("num_quantizers", 32))
    size = encoder.size("codebook_size", 2048)
    if (count, size) != (config.num_codebooks, config.codebook_size):
        raise fields.error(
            f"the decoder reads {config.num_codebooks} codebooks of {config.codebook_size}, "
            f"the encoder gives {count} of {size}"
        )
    inner = encoder.size("vector_quantization_hidden_dimension", 256)
    if inner != encoder.size("codebook_dim", 256) or inner == encoder.size("hidden_size", 512):
        raise fields.error(
            "encoder_config: vector_quantization_hidden_dimension must be codebook_dim, not hidden_size: "
            "else is not supported"
        )

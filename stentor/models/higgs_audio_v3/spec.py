"""Higgs Audio v3 as Stentor serves it: what a checkpoint offers, and the four stages that serve it.

The build functions run inside the workers; what they import loads torch, so nothing here does it earlier.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stentor.audio.fetch import ReferenceReader
from stentor.config import Config
from stentor.models import registry
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.inventory import expected_shapes
from stentor.models.higgs_audio_v3.checkpoint import (
    CODEC_PREFIX,
    all_shapes,
    codec_identity,
    open_weights,
    read_codec_config,
)
from stentor.models.higgs_audio_v3.config import V3Config, read_max_prompt_chars, read_sampling_defaults
from stentor.models.higgs_audio_v3.preprocessor import Limits, V3Preprocessor
from stentor.models.higgs_audio_v3.tokenizer import TokenizerFile, V3Tokenizer
from stentor.models.weights import DummyWeights, Weights
from stentor.request import ModelInfo, Prompt
from stentor.stages.base import Stage, StageSpec
from stentor.stages.preprocess import PreprocessStage

if TYPE_CHECKING:
    import torch

    from stentor.models.higgs_audio_codec.weights import CodecWeights


class HiggsAudioV3:
    """Implements `SpeechModel`."""

    def describe(self, checkpoint: Path) -> ModelInfo:
        """See `SpeechModel.describe`."""
        config = V3Config.read(checkpoint)
        codec = read_codec_config(checkpoint, config)
        return ModelInfo(
            name=registry.name_of(checkpoint),
            checkpoint=str(checkpoint),
            sample_rate_hz=codec.sample_rate_hz,
            samples_per_frame=codec.samples_per_frame,
            num_codebooks=config.num_codebooks,
            codebook_size=config.num_codes,
            control_tags=tuple(TokenizerFile(checkpoint).control_tags),
            context_limit=config.max_positions,
            sampling=read_sampling_defaults(checkpoint),
            codec=codec_identity(checkpoint),
            max_prompt_chars=read_max_prompt_chars(checkpoint),
        )

    def stages(self, checkpoint: Path, config: Config) -> list[StageSpec]:
        """See `SpeechModel.stages`; nothing is loaded yet, but all that will be has been checked."""
        self.describe(checkpoint)
        if config.model.load_format != "dummy":
            self.check(checkpoint)
        options = {"checkpoint": checkpoint, "config": config}
        sound = "engine" if _shares_process(config) else "vocoder"
        return [
            StageSpec("preprocess", build_preprocess, options, group="frontend"),
            StageSpec("encode", build_encode, options, group="frontend"),
            StageSpec("generate", build_generate, options, group="engine"),
            StageSpec("vocode", build_vocode, options, group=sound),
        ]

    def check(self, checkpoint: Path) -> str:
        """See `SpeechModel.check`."""
        config = V3Config.read(checkpoint)
        weights = open_weights(checkpoint, config, read_codec_config(checkpoint, config))
        numbers = sum(math.prod(shape) for shape in weights.shapes.values())
        return f"{len(weights.shapes)} tensors, {numbers / 1e6:,.1f} million numbers"

    def plain_loop(self, checkpoint: Path, config: Config) -> Callable[[Prompt], int]:
        """See `SpeechModel.plain_loop`."""
        from stentor.models.higgs_audio_v3.baseline import PlainLoop

        device, dtype = _arithmetic(config)
        return PlainLoop(V3Config.read(checkpoint), _weights(checkpoint, config, dtype), dtype, device)


def build_preprocess(checkpoint: Path, config: Config) -> Stage:
    """The stage that reads requests; needs no torch."""
    model = V3Config.read(checkpoint)
    codec = read_codec_config(checkpoint, model)
    limits = Limits(
        codec=codec,
        context_limit=min(config.engine.max_context, model.max_positions),
        max_reference_s=config.reference.max_seconds,
        sampling=read_sampling_defaults(checkpoint),
        can_grow=config.engine.max_context < model.max_positions,
    )
    tokenizer = V3Tokenizer(TokenizerFile(checkpoint), model.text_vocab_size)
    reader = ReferenceReader(config.reference)
    return PreprocessStage(V3Preprocessor(tokenizer, limits), reader, codec.sample_rate_hz, config.reference)


def build_encode(checkpoint: Path, config: Config) -> Stage:
    """The stage that encodes references; the encoder is loaded when the first one comes."""
    from stentor.models.higgs_audio_codec.encoder import CodecEncoder
    from stentor.stages.encode import EncodeStage

    def make_encoder() -> CodecEncoder:
        device, _ = _arithmetic(config)
        read, codec = _codec(checkpoint, config)
        return CodecEncoder(read, codec, device)

    geometry = read_codec_config(checkpoint, V3Config.read(checkpoint))
    cache_bytes, rate_hz = config.reference.cache_bytes, geometry.sample_rate_hz
    return EncodeStage(make_encoder, cache_bytes, rate_hz, geometry.padded_length)


def build_generate(checkpoint: Path, config: Config) -> Stage:
    """The stage that runs the language model."""
    from stentor.engine.compilations import keep_in

    keep_in(config.model.cache_folder)
    from stentor.engine.engine import Engine
    from stentor.layers.kernels import choose_kernels
    from stentor.layers.quantization import choose_scheme
    from stentor.models.higgs_audio_v3.lm import HiggsLM
    from stentor.stages.generate import GenerateStage

    device, dtype = _arithmetic(config)
    weights = _weights(checkpoint, config, dtype)
    engine = config.engine
    scheme = choose_scheme(engine.quantization, device, dtype)
    kernels = choose_kernels(engine.kernels, device, scheme, engine.own_product_rows)
    model = HiggsLM(V3Config.read(checkpoint), weights.tensor, dtype, device, kernels)
    reserved_bytes = _vocoder_bytes(checkpoint, config, device) if device.type == "cuda" else 0
    return GenerateStage(Engine(model, config.engine, reserved_bytes), model.shape)


def build_vocode(checkpoint: Path, config: Config) -> Stage:
    """The stage that turns codes into sound."""
    from stentor.engine.compilations import keep_in

    keep_in(config.model.cache_folder)
    from stentor.layers.kernels import choose_kernels
    from stentor.models.higgs_audio_codec.vocoder import CodecVocoder, make_decoder
    from stentor.stages.vocode import VocodeStage

    device, _ = _arithmetic(config)
    read, codec = _codec(checkpoint, config)
    kernels = choose_kernels(config.engine.kernels, device)
    decoder = make_decoder(read, codec, device, _vocoder_dtype(config, device), kernels)
    most_frames, graphs = config.vocoder.max_batch_frames, config.engine.cuda_graphs
    return VocodeStage(CodecVocoder(decoder, codec, device, most_frames, graphs=graphs), config.vocoder)


def _shares_process(config: Config) -> bool:
    """Does the vocoder run in the engine's process: on a GPU, which two processes would use in turns."""
    if config.vocoder.beside_engine != "auto":
        return config.vocoder.beside_engine == "on"
    device = config.model.device
    # What torch would say, without loading it here.
    return device.startswith("cuda") or (device == "auto" and Path("/proc/driver/nvidia/version").exists())


def _vocoder_dtype(config: Config, device: "torch.device") -> str:
    if config.vocoder.dtype != "auto":
        return config.vocoder.dtype
    return "tfloat32" if device.type == "cuda" else "float32"


def _vocoder_bytes(checkpoint: Path, config: Config, device: "torch.device") -> int:
    """What the vocoder takes of a GPU: its weights, and its largest round, padded."""
    codec = read_codec_config(checkpoint, V3Config.read(checkpoint))
    shapes, _ = expected_shapes(codec, frozenset())
    numbers = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("acoustic_decoder"))
    dtype = _vocoder_dtype(config, device)
    number_bytes = 2 if dtype in ("bfloat16", "float16") else 4
    # The weights of exact float32 are kept in two parts.
    weight_bytes = 8 if dtype == "float32" else number_bytes
    frames = max(config.vocoder.max_batch_frames, 2 * codec.context_frames)
    return numbers * weight_bytes + codec.decoding_bytes(frames, number_bytes)


def _arithmetic(config: Config) -> "tuple[torch.device, torch.dtype]":
    from stentor.layers.device import resolve_device, resolve_dtype

    device = resolve_device(config.model.device)
    return device, resolve_dtype(config.model.dtype, device)


def _codec(checkpoint: Path, config: Config) -> "tuple[CodecWeights, CodecConfig]":
    import torch

    from stentor.models.higgs_audio_codec.weights import CodecWeights

    codec = read_codec_config(checkpoint, V3Config.read(checkpoint))
    return CodecWeights(_weights(checkpoint, config, torch.float32), codec, CODEC_PREFIX), codec


def _weights(checkpoint: Path, config: Config, dtype: "torch.dtype") -> Weights:
    """The checkpoint's tensors, or, with `--load-format dummy`, random ones of that dtype."""
    model = V3Config.read(checkpoint)
    codec = read_codec_config(checkpoint, model)
    if config.model.load_format != "dummy":
        return open_weights(checkpoint, model, codec)
    wanted, _ = all_shapes(model, codec)
    device, _ = _arithmetic(config)
    return DummyWeights(wanted, dtype, device)

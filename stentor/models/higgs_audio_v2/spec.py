"""Higgs Audio v2 as Stentor serves it: what a checkpoint offers, and the four stages that serve it.

The build functions run inside the workers; what they import loads torch, so nothing here does it earlier.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stentor.config import Config
from stentor.models import registry
from stentor.models.higgs_audio import building
from stentor.models.higgs_audio.dummy import DummyWeights
from stentor.models.higgs_audio.generation import read_sampling_defaults
from stentor.models.higgs_audio.tokens import TokenizerFile
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.inventory import expected_shapes
from stentor.models.higgs_audio_v2.checkpoint import (
    codec_config,
    codec_identity,
    lm_shapes,
    open_codec,
    open_weights,
)
from stentor.models.higgs_audio_v2.config import SAMPLING, V2Config
from stentor.models.higgs_audio_v2.preprocessor import V2Preprocessor, V2Tokenizer, check_tokens
from stentor.models.higgs_audio_v2.script import SPEAKER_TAGS
from stentor.models.weights import Weights
from stentor.request import ModelInfo, Prompt
from stentor.stages.base import Stage, StageSpec
from stentor.stages.transcribe import Recogniser

if TYPE_CHECKING:
    import torch

    from stentor.layers.kernels import Kernels
    from stentor.models.higgs_audio_codec.weights import CodecWeights
    from stentor.models.higgs_audio_v2.lm import V2LM


class HiggsAudioV2:
    """Implements `SpeechModel`."""

    def describe(self, checkpoint: Path) -> ModelInfo:
        """See `SpeechModel.describe`."""
        config = V2Config.read(checkpoint)
        codec = codec_config(checkpoint, config)
        check_tokens(TokenizerFile(checkpoint))
        return ModelInfo(
            name=registry.name_of(checkpoint),
            checkpoint=str(checkpoint),
            sample_rate_hz=codec.sample_rate_hz,
            samples_per_frame=codec.samples_per_frame,
            num_codebooks=config.num_codebooks,
            codebook_size=config.num_codes,
            control_tags=(),
            context_limit=config.max_positions,
            sampling=read_sampling_defaults(checkpoint, SAMPLING),
            codec=codec_identity(checkpoint),
            reads_instructions=True,
            speaker_tags=SPEAKER_TAGS,
        )

    def stages(self, checkpoint: Path, config: Config) -> list[StageSpec]:
        """See `SpeechModel.stages`."""
        builders: dict[str, Callable[..., Stage]] = {
            "preprocess": build_preprocess,
            "encode": build_encode,
            "generate": build_generate,
            "vocode": build_vocode,
        }
        return building.chain(self, builders, checkpoint, config)

    def check(self, checkpoint: Path) -> str:
        """See `SpeechModel.check`; the codec is part of it, wherever it lies."""
        config = V2Config.read(checkpoint)
        opened = open_weights(checkpoint, config), open_codec(checkpoint, codec_config(checkpoint, config))
        return building.counted(*opened)

    def plain_loop(self, checkpoint: Path, config: Config) -> Callable[[Prompt], int] | None:
        """See `SpeechModel.plain_loop`; there is none yet."""
        return None


def build_preprocess(checkpoint: Path, config: Config, recogniser: Recogniser | None) -> Stage:
    """The stage that reads requests; needs no torch, unless to transcribe."""
    model = V2Config.read(checkpoint)
    make = partial(V2Preprocessor, V2Tokenizer(TokenizerFile(checkpoint), model.text_vocab_size))
    codec, sampling = codec_config(checkpoint, model), read_sampling_defaults(checkpoint, SAMPLING)
    return building.preprocess_stage(make, codec, model.max_positions, sampling, config, recogniser)


def build_encode(checkpoint: Path, config: Config) -> Stage:
    """The stage that encodes references; the encoder is loaded when the first one comes."""
    return building.encode_stage(lambda: _codec_weights(checkpoint, config), _codec(checkpoint), config)


def build_generate(checkpoint: Path, config: Config) -> Stage:
    """The stage that runs the language model."""

    def make_model(dtype: "torch.dtype", device: "torch.device", kernels: "Kernels") -> "V2LM":
        from stentor.models.higgs_audio_v2.lm import V2LM

        model = V2Config.read(checkpoint)
        weights: Weights
        if config.model.load_format == "dummy":
            weights = DummyWeights(lm_shapes(model)[0], dtype, device)
        else:
            weights = open_weights(checkpoint, model)
        return V2LM(model, weights, dtype, device, kernels)

    codec = _codec(checkpoint)
    return building.generate_stage(make_model, partial(building.vocoder_bytes, codec, config), config)


def build_vocode(checkpoint: Path, config: Config) -> Stage:
    """The stage that turns codes into sound."""
    return building.vocode_stage(_codec_weights(checkpoint, config), config)


def _codec(checkpoint: Path) -> CodecConfig:
    return codec_config(checkpoint, V2Config.read(checkpoint))


def _codec_weights(checkpoint: Path, config: Config) -> "CodecWeights":
    """The codec's parameters, or, with `--load-format dummy`, random ones."""
    import torch

    from stentor.models.higgs_audio_codec.weights import CodecWeights

    codec = _codec(checkpoint)
    if config.model.load_format != "dummy":
        return CodecWeights(open_codec(checkpoint, codec), codec)
    device, _ = building.arithmetic(config)
    return CodecWeights(DummyWeights(expected_shapes(codec)[0], torch.float32, device), codec)

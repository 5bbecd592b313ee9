"""Higgs Audio v3 as Stentor serves it: what a checkpoint offers, and the four stages that serve it.

The build functions run inside the workers; what they import loads torch, so nothing here does it earlier.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stentor.config import Config, override
from stentor.models import registry
from stentor.models.higgs_audio import building
from stentor.models.higgs_audio.building import arithmetic
from stentor.models.higgs_audio.dummy import DummyWeights
from stentor.models.higgs_audio.generation import read_generation, read_sampling_defaults
from stentor.models.higgs_audio.tokens import TokenizerFile
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_v3.checkpoint import (
    CODEC_PREFIX,
    all_shapes,
    codec_identity,
    open_weights,
    read_codec_config,
)
from stentor.models.higgs_audio_v3.config import SAMPLING, V3Config, read_max_prompt_chars
from stentor.models.higgs_audio_v3.preprocessor import V3Preprocessor
from stentor.models.higgs_audio_v3.tokenizer import Structure, V3Tokenizer
from stentor.models.weights import Weights
from stentor.request import ModelInfo, Prompt
from stentor.stages.base import Stage, StageSpec
from stentor.stages.transcribe import Recogniser

if TYPE_CHECKING:
    import torch

    from stentor.layers.kernels import Kernels
    from stentor.models.higgs_audio_codec.weights import CodecWeights
    from stentor.models.higgs_audio_v3.lm import HiggsLM


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
            control_tags=tuple(Structure.of(TokenizerFile(checkpoint)).control_tags),
            context_limit=config.max_positions,
            sampling=read_sampling_defaults(checkpoint, SAMPLING),
            codec=codec_identity(checkpoint),
            max_prompt_chars=read_max_prompt_chars(checkpoint),
            steady_voice=read_generation(checkpoint).get("steady_voice", bool, False),
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
        """See `SpeechModel.check`."""
        config = V3Config.read(checkpoint)
        return building.counted(open_weights(checkpoint, config, read_codec_config(checkpoint, config)))

    def plain_loop(self, checkpoint: Path, config: Config) -> Callable[[Prompt], int]:
        """See `SpeechModel.plain_loop`."""
        from stentor.models.higgs_audio_v3.baseline import PlainLoop

        # Its weights stay whole: the comparison is with what is fastest for those.
        device, dtype = arithmetic(override(config, {"engine": {"quantization": "none"}}))
        return PlainLoop(V3Config.read(checkpoint), _weights(checkpoint, config, dtype), dtype, device)


def build_preprocess(checkpoint: Path, config: Config, recogniser: Recogniser | None) -> Stage:
    """The stage that reads requests; needs no torch, unless to transcribe."""
    model = V3Config.read(checkpoint)
    make = partial(V3Preprocessor, V3Tokenizer(TokenizerFile(checkpoint), model.text_vocab_size))
    codec, sampling = read_codec_config(checkpoint, model), read_sampling_defaults(checkpoint, SAMPLING)
    return building.preprocess_stage(make, codec, model.max_positions, sampling, config, recogniser)


def build_encode(checkpoint: Path, config: Config) -> Stage:
    """The stage that encodes references; the encoder is loaded when the first one comes."""
    codec = _codec_config(checkpoint)
    return building.encode_stage(lambda: _codec_weights(checkpoint, config), codec, config)


def build_generate(checkpoint: Path, config: Config) -> Stage:
    """The stage that runs the language model."""

    def make_model(dtype: "torch.dtype", device: "torch.device", kernels: "Kernels") -> "HiggsLM":
        from stentor.models.higgs_audio_v3.lm import HiggsLM

        read = _weights(checkpoint, config, dtype).tensor
        return HiggsLM(V3Config.read(checkpoint), read, dtype, device, kernels)

    codec = _codec_config(checkpoint)
    return building.generate_stage(make_model, partial(building.vocoder_bytes, codec, config), config)


def build_vocode(checkpoint: Path, config: Config) -> Stage:
    """The stage that turns codes into sound."""
    return building.vocode_stage(_codec_weights(checkpoint, config), config)


def _codec_config(checkpoint: Path) -> CodecConfig:
    return read_codec_config(checkpoint, V3Config.read(checkpoint))


def _codec_weights(checkpoint: Path, config: Config) -> "CodecWeights":
    import torch

    from stentor.models.higgs_audio_codec.weights import CodecWeights

    return CodecWeights(_weights(checkpoint, config, torch.float32), _codec_config(checkpoint), CODEC_PREFIX)


def _weights(checkpoint: Path, config: Config, dtype: "torch.dtype") -> Weights:
    """The checkpoint's tensors, or, with `--load-format dummy`, random ones of that dtype."""
    model = V3Config.read(checkpoint)
    codec = read_codec_config(checkpoint, model)
    if config.model.load_format != "dummy":
        return open_weights(checkpoint, model, codec)
    wanted, _ = all_shapes(model, codec)
    device, _ = arithmetic(config)
    return DummyWeights(wanted, dtype, device)

"""Qwen3-TTS as Stentor serves it: what a checkpoint offers, and the four stages that serve it.

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
from stentor.models.qwen3_codec.inventory import decoding_numbers, expected_shapes, open_codec
from stentor.models.qwen3_tts.checkpoint import (
    SPEAKER_PREFIX,
    all_shapes,
    codec_identity,
    open_weights,
    read_codec,
    read_speaker,
)
from stentor.models.qwen3_tts.config import BASE, CUSTOM_VOICE, SAMPLING, QwenConfig
from stentor.models.qwen3_tts.preprocessor import FrameLimits, QwenPreprocessor, QwenTokenizer, check_tokens
from stentor.models.weights import Weights
from stentor.request import ModelInfo, Prompt
from stentor.stages.base import Stage, StageSpec
from stentor.stages.transcribe import Recogniser

if TYPE_CHECKING:
    import torch

    from stentor.layers.kernels import Kernels
    from stentor.models.qwen3_codec.vocoder import QwenVocoder
    from stentor.models.qwen3_tts.lm import QwenLM
    from stentor.models.qwen3_tts.references import VoiceEncoder


class QwenTTS:
    """Implements `SpeechModel`."""

    def describe(self, checkpoint: Path) -> ModelInfo:
        """See `SpeechModel.describe`."""
        config = QwenConfig.read(checkpoint)
        codec = read_codec(checkpoint, config)
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
            reads_instructions=config.reads_instructions,
            steady_voice=config.kind == CUSTOM_VOICE,
            speakers=tuple(config.speakers) if config.kind != BASE else (),
            clones=config.kind == BASE,
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
        """See `SpeechModel.check`; the codec is part of it."""
        config = QwenConfig.read(checkpoint)
        opened = open_weights(checkpoint, config), open_codec(checkpoint, read_codec(checkpoint, config))
        return building.counted(*opened)

    def plain_loop(self, checkpoint: Path, config: Config) -> Callable[[Prompt], int] | None:
        """See `SpeechModel.plain_loop`; there is none yet."""
        return None


def build_preprocess(checkpoint: Path, config: Config, recogniser: Recogniser | None) -> Stage:
    """The stage that reads requests; needs no torch, unless to transcribe."""
    model = QwenConfig.read(checkpoint)
    tokenizer = QwenTokenizer(TokenizerFile(checkpoint), model.text_vocab_size)
    make, codec = partial(QwenPreprocessor, model, tokenizer), read_codec(checkpoint, model)
    sampling = read_sampling_defaults(checkpoint, SAMPLING)
    return building.preprocess_stage(
        make, codec, model.max_positions, sampling, config, recogniser, FrameLimits
    )


def build_encode(checkpoint: Path, config: Config) -> Stage:
    """The stage that encodes references; what hears them is loaded when the first one comes."""
    from stentor.models.qwen3_codec.encoder import QwenEncoder
    from stentor.stages.encode import EncodeStage

    model = QwenConfig.read(checkpoint)
    codec, speaker = read_codec(checkpoint, model), read_speaker(checkpoint, model)

    def make_encoder() -> QwenEncoder:
        return QwenEncoder(_codec_tensors(checkpoint, config), codec, building.arithmetic(config)[0])

    def make_voice_encoder() -> "VoiceEncoder":
        import torch

        from stentor.models.qwen3_codec.speaker import SpeakerEncoder
        from stentor.models.qwen3_tts.references import HEARD_FRAMES, VoiceEncoder

        assert speaker is not None, "of what clones"
        device, _ = building.arithmetic(config)
        weights = _weights(checkpoint, config, torch.float32)
        encoder = SpeakerEncoder(lambda name: weights.tensor(SPEAKER_PREFIX + name), speaker, device)
        return VoiceEncoder(encoder, lambda: _vocoder(checkpoint, config, HEARD_FRAMES))

    return EncodeStage(
        make_encoder,
        config.reference.cache_bytes,
        codec.sample_rate_hz,
        make_voice_encoder=make_voice_encoder if speaker is not None else None,
    )


def build_generate(checkpoint: Path, config: Config) -> Stage:
    """The stage that runs the language model."""

    def make_model(dtype: "torch.dtype", device: "torch.device", kernels: "Kernels") -> "QwenLM":
        from stentor.models.qwen3_tts.lm import QwenLM

        weights = _weights(checkpoint, config, dtype)
        return QwenLM(QwenConfig.read(checkpoint), weights, dtype, device, kernels)

    def vocoder_bytes(device: "torch.device") -> int:
        codec = read_codec(checkpoint, QwenConfig.read(checkpoint))
        number_bytes = 2 if config.vocoder.dtype in ("bfloat16", "float16") else 4
        rounds = codec.decoding_bytes(config.vocoder.max_batch_frames + codec.near_frames, number_bytes)
        return decoding_numbers(codec) * number_bytes + rounds

    return building.generate_stage(make_model, vocoder_bytes, config)


def build_vocode(checkpoint: Path, config: Config) -> Stage:
    """The stage that turns codes into sound."""
    from stentor.stages.vocode import VocodeStage

    return VocodeStage(_vocoder(checkpoint, config, config.vocoder.max_batch_frames), config.vocoder)


def _vocoder(checkpoint: Path, config: Config, most_frames: int) -> "QwenVocoder":
    from stentor.models.qwen3_codec.vocoder import QwenVocoder

    codec, (device, _) = read_codec(checkpoint, QwenConfig.read(checkpoint)), building.arithmetic(config)
    # On a GPU, too: windows agree with the whole only where the arithmetic does not round to fewer bits.
    dtype = "float32" if config.vocoder.dtype == "auto" else config.vocoder.dtype
    return QwenVocoder(_codec_tensors(checkpoint, config), codec, device, dtype, most_frames)


def _codec_tensors(checkpoint: Path, config: Config) -> "Callable[[str], torch.Tensor]":
    """The codec's tensors by name, float32; with `--load-format dummy`, random ones."""
    import torch

    from stentor.models.qwen3_codec.convolution import reader

    codec = read_codec(checkpoint, QwenConfig.read(checkpoint))
    weights: Weights
    if config.model.load_format == "dummy":
        weights = DummyWeights(expected_shapes(codec), torch.float32, building.arithmetic(config)[0])
    else:
        weights = open_codec(checkpoint, codec)
    return reader(weights)


def _weights(checkpoint: Path, config: Config, dtype: "torch.dtype") -> Weights:
    """The tensors of language model and speaker encoder, or, with `--load-format dummy`, random ones."""
    model = QwenConfig.read(checkpoint)
    if config.model.load_format != "dummy":
        return open_weights(checkpoint, model)
    return DummyWeights(all_shapes(checkpoint, model), dtype, building.arithmetic(config)[0])

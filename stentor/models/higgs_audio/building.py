"""Builds the stages around a model and its codec, inside the workers: the first to load torch there."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stentor.audio.fetch import ReferenceReader
from stentor.config import Config
from stentor.models import registry
from stentor.models.base import SpeechModel
from stentor.models.higgs_audio.limits import CodecShape, Limits
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.inventory import expected_shapes
from stentor.models.weights import Checkpoint
from stentor.request import SamplingParams
from stentor.stages.base import Stage, StageSpec
from stentor.stages.preprocess import Preprocessor, PreprocessStage
from stentor.stages.transcribe import Recogniser

if TYPE_CHECKING:
    import torch

    from stentor.engine.model import SpeechLM
    from stentor.layers.kernels import Kernels
    from stentor.models.higgs_audio_codec.weights import CodecWeights

    MakeModel = Callable[[torch.dtype, torch.device, Kernels], SpeechLM]


def chain(
    model: SpeechModel, builders: "dict[str, Callable[..., Stage]]", checkpoint: Path, config: Config
) -> list[StageSpec]:
    """The four stages by name, each with its build function, in the processes that suit them; nothing is
    loaded yet, but all that will be has been checked.

    That of preprocess is given a `recogniser` beside checkpoint and configuration, or None.
    """
    model.describe(checkpoint)
    if config.model.load_format != "dummy":
        model.check(checkpoint)
    sound = "engine" if _shares_process(config) else "vocoder"
    groups = {"preprocess": "frontend", "encode": "frontend", "generate": "engine", "vocode": sound}
    options: dict[str, dict[str, Any]] = {
        name: {"checkpoint": checkpoint, "config": config} for name in groups
    }
    options["preprocess"]["recogniser"] = registry.recogniser_for(config)
    return [StageSpec(name, builders[name], options[name], group) for name, group in groups.items()]


def counted(*opened: Checkpoint) -> str:
    """What was found in a checkpoint's files, as `SpeechModel.check` tells it."""
    shapes = [shape for weights in opened for shape in weights.shapes.values()]
    return f"{len(shapes)} tensors, {sum(map(math.prod, shapes)) / 1e6:,.1f} million numbers"


def preprocess_stage(
    make: Callable[[Limits], Preprocessor],
    codec: CodecShape,
    most_positions: int,
    sampling: SamplingParams,
    config: Config,
    recogniser: Recogniser | None,
    kind: type[Limits] = Limits,
) -> Stage:
    """The stage that reads requests, for a model of `most_positions` with these defaults; needs no torch,
    unless to transcribe.
    """
    limits = kind(
        codec=codec,
        context_limit=min(config.engine.max_context, most_positions),
        max_reference_s=config.reference.max_seconds,
        sampling=sampling,
        can_grow=config.engine.max_context < most_positions,
    )
    rate_hz, reader = codec.sample_rate_hz, ReferenceReader(config.reference)
    return PreprocessStage(make(limits), reader, rate_hz, config.reference, recogniser)


def encode_stage(read_codec: "Callable[[], CodecWeights]", codec: CodecConfig, config: Config) -> Stage:
    """The stage that encodes references; the codec is read when the first one comes."""
    from stentor.models.higgs_audio_codec.encoder import CodecEncoder
    from stentor.stages.encode import EncodeStage

    def make_encoder() -> CodecEncoder:
        return CodecEncoder(read_codec(), codec, arithmetic(config)[0])

    return EncodeStage(make_encoder, config.reference.cache_bytes, codec.sample_rate_hz, codec.padded_length)


def generate_stage(
    make_model: "MakeModel", vocoder_bytes: "Callable[[torch.device], int]", config: Config
) -> Stage:
    """The stage that runs the language model; on a GPU it leaves the codec `vocoder_bytes` of it."""
    from stentor.engine.compilations import keep_in

    keep_in(config.model.cache_folder)
    from stentor.engine.engine import Engine
    from stentor.layers.kernels import choose_kernels
    from stentor.layers.quantization import choose_scheme
    from stentor.stages.generate import GenerateStage

    device, dtype = arithmetic(config)
    engine = config.engine
    scheme = choose_scheme(engine.quantization, device, dtype)
    model = make_model(dtype, device, choose_kernels(engine.kernels, device, scheme, engine.own_product_rows))
    reserved_bytes = vocoder_bytes(device) if device.type == "cuda" else 0
    return GenerateStage(Engine(model, engine, reserved_bytes), model.shape)


def vocode_stage(read: "CodecWeights", config: Config) -> Stage:
    """The stage that turns codes into sound."""
    from stentor.engine.compilations import keep_in

    keep_in(config.model.cache_folder)
    from stentor.layers.kernels import choose_kernels
    from stentor.models.higgs_audio_codec.vocoder import CodecVocoder, make_decoder
    from stentor.stages.vocode import VocodeStage

    device, codec = arithmetic(config)[0], read.config
    kernels = choose_kernels(config.engine.kernels, device)
    decoder = make_decoder(read, codec, device, _vocoder_dtype(config, device), kernels)
    most_frames, graphs = config.vocoder.max_batch_frames, config.engine.cuda_graphs
    return VocodeStage(CodecVocoder(decoder, codec, device, most_frames, graphs=graphs), config.vocoder)


def arithmetic(config: Config) -> "tuple[torch.device, torch.dtype]":
    """Where the model runs, and in which numbers; the calling thread's kernels run there from now on."""
    import torch

    from stentor.layers.device import resolve_device, resolve_dtype

    device = resolve_device(config.model.device)
    if device.index is not None:
        torch.cuda.set_device(device)
    return device, resolve_dtype(config.model.dtype, device, config.engine.quantization)


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


def vocoder_bytes(codec: CodecConfig, config: Config, device: "torch.device") -> int:
    """What the Higgs vocoder takes of a GPU: its weights, and its largest round, padded."""
    shapes, _ = expected_shapes(codec, frozenset())
    numbers = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("acoustic_decoder"))
    dtype = _vocoder_dtype(config, device)
    number_bytes = 2 if dtype in ("bfloat16", "float16") else 4
    # The weights of exact float32 are kept in two parts.
    weight_bytes = 8 if dtype == "float32" else number_bytes
    frames = max(config.vocoder.max_batch_frames, 2 * codec.context_frames)
    return numbers * weight_bytes + codec.decoding_bytes(frames, number_bytes)

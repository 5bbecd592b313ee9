"""TTS, the offline facade (text in, waveform out), and `build_pipeline` for any front door."""

import secrets
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
from msgspec.structs import replace

from stentor.audio import formats
from stentor.audio.shape import Shape, Shaper
from stentor.config import Config, PipelineConfig, check, from_environment, override
from stentor.errors import ConfigError, NotFoundError, RequestError
from stentor.models import registry
from stentor.pipeline.kept_voice import KeptVoice
from stentor.pipeline.passage import Passage, speak
from stentor.pipeline.pipeline import Pipeline
from stentor.pipeline.remote.messages import SCHEME, Remote
from stentor.pipeline.remote.server import ChainServer
from stentor.pipeline.stream import AudioStream
from stentor.request import Array, FinishReason, ModelInfo, Reference, SamplingParams, SpeechRequest, Usage
from stentor.stages.base import StageSpec
from stentor.text.instructions import directed
from stentor.voices import VoiceStore

# One process, nothing to spawn: the quickest start for a program that speaks a few sentences.
OFFLINE = Config(pipeline=PipelineConfig(workers="thread"))


class SpeechOptions(TypedDict, total=False):
    """How a text is spoken; whatever is left out takes the checkpoint's default.

    They are those of an HTTP request. `voice` is a name of `stentor voices list`. `reference` is a recording
    to clone instead: a path, an http(s) URL, the bytes of an audio file, or its codes, integers [num_frames,
    num_codebooks]; `reference_text` is what it says, and makes the clone better. `instructions` are words for
    the delivery (`stentor.text.instructions`). `language` is that of the text. `seed` None draws a fresh one;
    for the rest of the sampling see `SamplingParams`. `runaway_guard` False lets a generation run to
    `max_new_tokens` rows, `check_tags` False lets unknown tags pass. `initial_chunk_frames` is how long a
    stream's first chunk is. `speed` to `trim_silence` are a `Shape`.
    """

    voice: str | None
    reference: str | Path | bytes | Array | None
    reference_text: str | None
    instructions: str | None
    language: str | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    max_new_tokens: int | None
    repetition_penalty: float | None
    runaway_guard: bool
    check_tags: bool
    initial_chunk_frames: int | None
    speed: float
    sample_rate_hz: int | None
    loudness_lufs: float | None
    trim_silence: bool


@dataclass(frozen=True)
class Speech:
    """A finished utterance: mono float32 `waveform` [num_samples] in [-1, 1], and how it came about.

    `codes` are integers [num_frames, num_codebooks], whatever the waveform was shaped into; the same `seed`
    gives the same speech again. `notes` say how instructions were read.
    """

    waveform: Array
    sample_rate_hz: int
    codes: Array | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    seed: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return len(self.waveform) / self.sample_rate_hz

    def encode(self, format: str) -> bytes:
        """The whole as one audio file. Raises RequestError for a format that is not in `formats.FORMATS`."""
        return formats.encode_file(self.waveform, format, self.sample_rate_hz)

    def save(self, path: str | Path) -> None:
        """Write an audio file in the format that the path's suffix names; RequestError if it names none."""
        formats.write_whole(path, self.encode(format_of(path)))


def format_of(path: str | Path) -> str:
    """The audio format that a path's suffix names. Raises RequestError if it names none."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in formats.FORMATS:
        known = ", ".join(f".{name}" for name in formats.FORMATS)
        raise RequestError(f"the format of {str(path)!r} is unclear: end the name with one of {known}")
    return suffix


class SpeechStream:
    """Waveform chunks of one utterance, float32 [num_samples], as they are made.

    `finish_reason`, `usage` and `codes` are there once it has ended. A stream that is closed, or that nobody
    holds any more, is no longer made.
    """

    def __init__(
        self, audio: AudioStream | Passage, shaper: Shaper, seed: int | None, notes: tuple[str, ...] = ()
    ) -> None:
        self.sample_rate_hz = shaper.sample_rate_hz
        self.seed = seed
        self.notes = notes
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.codes: Array | None = None
        self._audio = audio
        self._shaper: Shaper | None = shaper

    def __iter__(self) -> "SpeechStream":
        return self

    def __next__(self) -> Array:
        if self._shaper is None:
            raise StopIteration
        for audio in self._audio:
            if audio.finish_reason is not None:
                self.finish_reason, self.usage, self.codes = audio.finish_reason, audio.usage, audio.codes
            waveform = self._shaper.feed(audio.waveform)
            if len(waveform):
                return waveform
        rest, self._shaper = self._shaper.finish(), None
        if len(rest) == 0:
            raise StopIteration
        return rest

    def close(self) -> None:
        """Stop the generation, if it has not ended."""
        self._audio.abort()

    def whole(self, progress: Callable[[float], None] | None = None) -> Speech:
        """All that is still to come, as one `Speech`; `progress` is told its seconds so far."""
        chunks, seconds = [np.zeros(0, np.float32)], 0.0
        for chunk in self:
            chunks.append(chunk)
            seconds += len(chunk) / self.sample_rate_hz
            if progress is not None:
                progress(seconds)
        how = (self.codes, self.finish_reason, self.usage, self.seed, self.notes)
        return Speech(np.concatenate(chunks), self.sample_rate_hz, *how)


class TTS:
    """A speech model in this process; loads on first use. Close it, or use it as a context manager.

    `model` is a folder or a hub id (default: the built-in voice); `config` defaults to the STENTOR_*
    variables over worker threads. Safe to use from several threads; their requests decode together.
    """

    def __init__(self, model: str | Path = "", *, config: Config | None = None) -> None:
        chosen = config or from_environment(base=OFFLINE)
        self.config = override(chosen, {"model": {"model": str(model)}} if model else {})
        self._folder = registry.resolve(self.config.model.model)
        self.info: ModelInfo = registry.model_for(self._folder).describe(self._folder)
        self._voices = VoiceStore(self.info, self.config.reference)
        self._pipeline: Pipeline | None = None
        self._lock = threading.Lock()

    def speak(
        self, text: str, *, progress: Callable[[float], None] | None = None, **options: Unpack[SpeechOptions]
    ) -> Speech:
        """Say `text` and wait for all of it; `progress` is told the seconds of speech so far.

        Raises:
            RequestError: it cannot be said.
        """
        return self._open(text, options, stream=progress is not None, whole=True).whole(progress)

    def stream(self, text: str, **options: Unpack[SpeechOptions]) -> SpeechStream:
        """Say `text` and hand over chunks as early as exactness allows: the samples are those of `speak`.

        What only the end tells is excepted (`Shaper`): a silent tail beyond 0.5 s, and the exact loudness.
        """
        return self._open(text, options, stream=True, whole=False)

    def start(self) -> None:
        """Load the model now instead of at the first call. Raises StentorError if it cannot be loaded."""
        self._started()

    def close(self) -> None:
        """Stop the workers and free the model."""
        with self._lock:
            if self._pipeline is not None:
                self._pipeline.close()
            self._pipeline = None

    def __enter__(self) -> "TTS":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _started(self) -> Pipeline:
        with self._lock:
            if self._pipeline is None:
                self.info, pipeline = build_pipeline(self.config)
                pipeline.start()
                self._pipeline = pipeline
            return self._pipeline

    def _open(self, text: str, options: SpeechOptions, *, stream: bool, whole: bool) -> SpeechStream:
        if unknown := options.keys() - SpeechOptions.__annotations__.keys():
            raise TypeError(
                f"unknown option {min(unknown)!r}: use {', '.join(SpeechOptions.__annotations__)}"
            )
        sampling = SamplingParams(**{"seed": secrets.randbits(31), **_of(SamplingParams, options)})
        shaper = Shaper(Shape(**_of(Shape, options)), self.info.sample_rate_hz, whole=whole)
        text, instructions, notes = directed(text, options.get("instructions"), self.info)
        request = SpeechRequest(
            request_id=uuid.uuid4().hex,
            text=text,
            instructions=instructions,
            language=options.get("language"),
            reference=self._reference(options),
            sampling=sampling,
            runaway_guard=options.get("runaway_guard", True),
            check_tags=options.get("check_tags", True),
            stream=stream,
            initial_chunk_frames=options.get("initial_chunk_frames"),
            return_codes=True,
        )
        submit = self._started().submit
        voice = KeptVoice(self.info, self.config.reference.max_seconds)
        audio = speak(submit, request, self.info, voice)
        return SpeechStream(audio, shaper, sampling.seed, notes)

    def _reference(self, options: SpeechOptions) -> Reference | None:
        reference, text = options.get("reference"), options.get("reference_text")
        if reference is not None:
            return make_reference(reference, text)
        if text is not None:
            raise RequestError(
                "reference_text says what a reference says: give the reference too", param="reference"
            )
        voice = options.get("voice")
        return None if voice is None else self._voices.get(voice)


def _of(kind: type[SamplingParams | Shape], options: SpeechOptions) -> dict[str, Any]:
    """The options that are fields of `kind`, but for those that are None; NumPy's numbers as Python's."""
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in options.items()
        if name in kind.__struct_fields__ and value is not None
    }


def by_device(config: Config) -> list[Config]:
    """A configuration for each device that `--device` names, of a model of its own there.

    Raises:
        ConfigError: one that is not 'cpu' is named twice.
    """
    devices = [device.strip() for device in config.model.device.split(",")]
    others = [device for device in devices if device != "cpu"]
    if len(set(others)) < len(others):
        raise ConfigError(f"--device {config.model.device}: name each once, a model takes all that one gives")
    return [override(config, {"model": {"device": device}}) for device in devices]


def build_pipeline(config: Config) -> tuple[ModelInfo, Pipeline]:
    """What `config.model` is, and the pipeline that serves it, not yet started.

    Raises:
        NotFoundError, CheckpointError: there is no such checkpoint, or it is not one.
        ConfigError: the settings do not fit it or this machine.
    """
    info, chains = _chains(config)
    return info, Pipeline(chains[0], config.pipeline, beside=chains[1:])


def build_chain_server(config: Config, address: str) -> ChainServer:
    """The model of `config` for the servers that will name `address` (`tcp://host:port`) as their device.

    Raises:
        NotFoundError, CheckpointError, ConfigError: as `build_pipeline`; `address` cannot be listened on.
    """
    info, chains = _chains(config)
    if len(chains) > 1 or isinstance(chains[0], Remote):
        raise ConfigError(f"--device {config.model.device}: start a worker for each device")
    return ChainServer(chains[0], config.pipeline, info, address)


def _chains(config: Config) -> tuple[ModelInfo, list[Sequence[StageSpec] | Remote]]:
    check(config)
    folder = registry.resolve(config.model.model)
    model = registry.model_for(folder)
    info = model.describe(folder)
    info = replace(info, context_limit=min(info.context_limit, config.engine.max_context))
    return info, [
        Remote(each.model.device, info, config.pipeline.worker_secret)
        if each.model.device.startswith(SCHEME)
        else model.stages(folder, each)
        for each in by_device(config)
    ]


def make_reference(reference: str | Path | bytes | Array, text: str | None = None) -> Reference:
    """A reference of this process's own user, who may read any file; see `SpeechOptions.reference`.

    Raises:
        NotFoundError: the file does not exist or cannot be read.
    """
    if isinstance(reference, np.ndarray):
        return Reference(codes=reference, text=text)
    if isinstance(reference, bytes):
        return Reference(audio=reference, text=text)
    if str(reference).startswith(("http://", "https://", "data:")):
        return Reference(audio=str(reference), text=text)
    try:
        return Reference(audio=Path(reference).read_bytes(), text=text)
    except OSError as error:
        raise NotFoundError(
            f"the reference {str(reference)!r} cannot be read: {error}", param="reference"
        ) from None

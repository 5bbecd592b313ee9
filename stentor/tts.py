"""TTS, the offline facade (text in, waveform out), and `build_pipeline` for any front door."""

import secrets
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np

from stentor.audio import formats
from stentor.config import Config, PipelineConfig, check, from_environment, override
from stentor.errors import NotFoundError, RequestError
from stentor.models import registry
from stentor.pipeline.passage import Passage, speak
from stentor.pipeline.pipeline import Pipeline
from stentor.pipeline.stream import AudioStream
from stentor.request import (
    Array,
    FinishReason,
    ModelInfo,
    Reference,
    SamplingParams,
    SpeechRequest,
    Usage,
)
from stentor.voices import VoiceStore

# One process, nothing to spawn: the quickest start for a program that speaks a few sentences.
OFFLINE = Config(pipeline=PipelineConfig(workers="thread"))


class SpeechOptions(TypedDict, total=False):
    """How a text is spoken; whatever is left out takes the checkpoint's default.

    `voice` is a name of `stentor voices list`. `reference` is a recording to clone instead: a
    path, an http(s) URL, the bytes of an audio file, or its codes, integers [num_frames, num_codebooks];
    `reference_text` is what it says, and makes the clone better. `seed` None draws a fresh one.
    `runaway_guard` False lets a generation run to `max_new_tokens` rows; `check_tags` False lets unknown tags
    pass.
    """

    voice: str | None
    reference: str | Path | bytes | Array | None
    reference_text: str | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    max_new_tokens: int | None
    repetition_penalty: float | None
    runaway_guard: bool
    check_tags: bool


@dataclass(frozen=True)
class Speech:
    """A finished utterance: mono float32 `waveform` [num_samples] in [-1, 1], and how it came about.

    `codes` are integers [num_frames, num_codebooks]; the same `seed` gives the same speech again.
    """

    waveform: Array
    sample_rate_hz: int
    codes: Array | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    seed: int | None = None

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return len(self.waveform) / self.sample_rate_hz

    def encode(self, format: str) -> bytes:
        """The whole as one audio file. Raises RequestError for a format that is not in `formats.FORMATS`."""
        return formats.encode_file(self.waveform, format, self.sample_rate_hz)

    def save(self, path: str | Path) -> None:
        """Write an audio file in the format that the path's suffix names; RequestError if it names none."""
        Path(path).write_bytes(self.encode(format_of(path)))


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

    def __init__(self, audio: AudioStream | Passage, sample_rate_hz: int, seed: int) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.seed = seed
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.codes: Array | None = None
        self._audio = audio

    def __iter__(self) -> "SpeechStream":
        return self

    def __next__(self) -> Array:
        for audio in self._audio:
            if audio.finish_reason is not None:
                self.finish_reason, self.usage, self.codes = audio.finish_reason, audio.usage, audio.codes
            if len(audio.waveform):
                return audio.waveform
        raise StopIteration

    def close(self) -> None:
        """Stop the generation, if it has not ended."""
        self._audio.abort()

    def finished(self, chunks: Sequence[Array]) -> Speech:
        """The ended stream's `chunks` as one `Speech`."""
        waveform = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
        return Speech(waveform, self.sample_rate_hz, self.codes, self.finish_reason, self.usage, self.seed)


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
        self._voices = VoiceStore.of(self.info, self.config.reference)
        self._pipeline: Pipeline | None = None
        self._lock = threading.Lock()

    def speak(self, text: str, **options: Unpack[SpeechOptions]) -> Speech:
        """Say `text` and wait for all of it. Raises RequestError for what cannot be said."""
        whole = self._open(text, options, stream=False)
        return whole.finished(list(whole))

    def stream(self, text: str, **options: Unpack[SpeechOptions]) -> SpeechStream:
        """Say `text` and hand over chunks as early as exactness allows: the samples are those of `speak`."""
        return self._open(text, options, stream=True)

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
                _, pipeline = build_pipeline(self.config)
                pipeline.start()
                self._pipeline = pipeline
            return self._pipeline

    def _open(self, text: str, options: SpeechOptions, *, stream: bool) -> SpeechStream:
        if unknown := options.keys() - SpeechOptions.__annotations__.keys():
            raise TypeError(
                f"unknown option {min(unknown)!r}: use {', '.join(SpeechOptions.__annotations__)}"
            )
        seed = options.get("seed")
        seed = secrets.randbits(31) if seed is None else seed
        request = SpeechRequest(
            request_id=uuid.uuid4().hex,
            text=text,
            reference=self._reference(options),
            sampling=SamplingParams(
                temperature=options.get("temperature"),
                top_p=options.get("top_p"),
                top_k=options.get("top_k"),
                seed=seed,
                max_new_tokens=options.get("max_new_tokens"),
                repetition_penalty=options.get("repetition_penalty"),
            ),
            runaway_guard=options.get("runaway_guard", True),
            check_tags=options.get("check_tags", True),
            stream=stream,
            return_codes=True,
        )
        audio = speak(self._started().submit, request, self.info)
        return SpeechStream(audio, self.info.sample_rate_hz, seed)

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


def build_pipeline(config: Config) -> tuple[ModelInfo, Pipeline]:
    """What `config.model` is, and the pipeline that serves it, not yet started.

    Raises:
        NotFoundError, CheckpointError: there is no such checkpoint, or it is not one.
        ConfigError: the settings do not fit it or this machine.
    """
    check(config)
    folder = registry.resolve(config.model.model)
    model = registry.model_for(folder)
    return model.describe(folder), Pipeline(model.stages(folder, config), config.pipeline)


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

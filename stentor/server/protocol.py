"""Knows the one order that a body stands for: what is said, in which voice, how it is heard and sent."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from stentor.audio.shape import Shape
from stentor.config import Config
from stentor.errors import ConfigError, NotFoundError, RequestError, TooLargeError
from stentor.pipeline.kept_voice import KeptVoice
from stentor.request import ModelInfo, Reference, SamplingParams, SpeechRequest
from stentor.server.bodies import SpeechBody, VoiceName
from stentor.server.errors import MODEL_NOT_FOUND
from stentor.server.references import read_reference
from stentor.text.instructions import directed
from stentor.voices import DEFAULT, VoiceStore

# What OpenAI's clients ask for unless they are told otherwise: they mean the model that is served.
OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")


class Delivery(StrEnum):
    """How the audio goes out."""

    FILE = "file"
    RAW = "raw"  # the format's bytes as they are made
    CHUNKS = "chunks"  # `audio.speech.chunk` events
    DELTAS = "deltas"  # OpenAI's `speech.audio.delta` events


@dataclass(frozen=True)
class Order:
    """What is asked of the pipeline, how its audio is to sound, and in which form the caller wants it.

    `id` is the caller's; the request's is that with an ending, so that no two in the house are the same.
    `seed` is the one that will be used, None if the checkpoint has one of its own. `names` are the caller's
    for our fields, where they differ.
    """

    id: str
    request: SpeechRequest
    shape: Shape
    format: str
    delivery: Delivery
    seed: int | None
    warnings: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def named(names: Mapping[str, str]) -> Iterator[None]:
    """Errors within name our fields as the caller does."""
    try:
        yield
    except RequestError as error:
        error.param = names.get(error.param or "", error.param)
        raise


class Reader:
    """Reads bodies for one served model."""

    def __init__(self, info: ModelInfo, voices: VoiceStore, config: Config) -> None:
        """Raises ConfigError: there is no folder for references where there is said to be one."""
        folder = config.reference.allowed_folder
        if folder and not Path(folder).is_dir():
            raise ConfigError(f"--allowed-folder: there is no folder {folder!r}: make it, or name another")
        self.served_name = config.server.served_model_name or info.name
        self._model_names = {self.served_name, info.name, config.model.model, "", *OPENAI_MODELS}
        self._info = info
        self._voices = voices
        self._max_chars = config.server.max_input_chars
        self._longest_reference_s = config.reference.max_seconds
        self._default_format = config.server.default_format

    def keep_voice(self) -> KeptVoice:
        """What keeps the voice of one conversation."""
        return KeptVoice(self._info, self._longest_reference_s)

    def check_model(self, name: str | None) -> None:
        """Raise NotFoundError (404) unless `name` means the served model."""
        if name is not None and name not in self._model_names:
            raise NotFoundError(
                f"there is no model {name[:100]!r}: this server serves {self.served_name!r}",
                param="model",
                code=MODEL_NOT_FOUND,
            )

    def read(self, body: SpeechBody, request_id: str) -> Order:
        """The order that a body stands for.

        Raises:
            NotFoundError: it names a model or a voice that does not exist.
            TooLargeError: the text is too long, or what the reference says.
            RequestError: a value is out of range, or two of them contradict each other.
        """
        self.check_model(body.model)
        self._check_length(body.input, "the text", "send it in parts", "input")
        if body.task_type == "VoiceDesign" and (self._info.clones or self._info.speakers):
            raise RequestError(
                "task_type is VoiceDesign, which is not for this model: name a voice, or send references",
                param="task_type",
                code="not_for_this_model",
            )
        reference = read_reference(body)
        if reference is not None and reference.text is not None:
            what, advice = "the reference's text", "a shorter reference will do"
            self._check_length(reference.text, what, advice, "reference_text")
        text, instructions, warnings = directed(body.input, body.instructions, self._info)
        self._check_length(instructions or "", "the scene", "describe it in fewer words", "instructions")
        format = body.response_format or self._default_format
        delivery = _delivery(body, format)
        sampling = self._sampling(body)
        request = SpeechRequest(
            request_id=f"{request_id}.{secrets.token_hex(4)}",
            text=text,
            instructions=instructions,
            reference=reference or self._voice(body.voice or body.speaker),
            sampling=sampling,
            runaway_guard=body.runaway_guard is not False,
            check_tags=body.check_tags is not False,
            stream=delivery is not Delivery.FILE,
            initial_chunk_frames=body.initial_codec_chunk_frames or None,
            language=body.language or None,
        )
        shape = Shape(
            speed=1.0 if body.speed is None else body.speed,
            sample_rate_hz=body.sample_rate,
            loudness_lufs=body.loudness_lufs,
            trim_silence=body.trim_silence is not False,
        )
        return Order(request_id, request, shape, format, delivery, sampling.seed, warnings)

    def _check_length(self, text: str, what: str, advice: str, param: str) -> None:
        if len(text) > self._max_chars:
            raise TooLargeError(
                f"{what} has {len(text)} characters, but at most {self._max_chars} are allowed: {advice}",
                param=param,
                code="string_above_max_length",
            )

    def _sampling(self, body: SpeechBody) -> SamplingParams:
        seed = body.seed
        if seed is None and self._info.sampling.seed is None:
            # Drawn here and not in the model, so that the caller is told.
            seed = secrets.randbits(31)
        given = {name: getattr(body, name) for name in SamplingParams.__struct_fields__}
        return SamplingParams(**{**given, "seed": seed})

    def _voice(self, voice: str | VoiceName | None) -> Reference | None:
        return self._voices.get(voice.id if isinstance(voice, VoiceName) else voice or DEFAULT)


def _delivery(body: SpeechBody, format: str) -> Delivery:
    if body.stream_format == "sse":
        return Delivery.DELTAS
    if body.stream_format == "audio":
        return Delivery.FILE if body.stream is False else Delivery.RAW
    if not body.stream:
        return Delivery.FILE
    return Delivery.RAW if format == "pcm" else Delivery.CHUNKS

"""Knows the body of `POST /v1/audio/speech`, in all its dialects, and the one request that it stands for."""

import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from stentor.config import Config
from stentor.errors import NotFoundError, RequestError, TooLargeError
from stentor.request import Array, ModelInfo, Reference, SamplingParams, SpeechRequest
from stentor.server.errors import MODEL_NOT_FOUND
from stentor.voices import DEFAULT, VoiceStore

FormatName = Literal["wav", "pcm", "flac", "mp3", "opus", "aac"]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class VoiceName(_Strict):
    """A voice as an object."""

    id: str


class ReferenceBody(_Strict):
    """A recording of the voice to clone."""

    audio_path: Annotated[
        str | None, Field(description="A path, an http(s) URL, a data URI or base64 text.")
    ] = None
    audio: Annotated[str | None, Field(description="The same as `audio_path`.")] = None
    ref_audio: Annotated[str | None, Field(description="The same as `audio_path`.")] = None
    data: Annotated[str | None, Field(description="Base64 text of an audio file.")] = None
    media_type: Annotated[str | None, Field(description="The media type of `data`; audio/* is known.")] = None
    text: Annotated[str | None, Field(description="What the recording says; makes the clone better.")] = None


class SpeechBody(_Strict):
    """What to say, in which voice and how; null means the default."""

    input: Annotated[str, Field(description="The text, with control tags where the model knows them.")]
    model: Annotated[str | None, Field(description="The served model, if given.")] = None
    voice: Annotated[
        str | VoiceName | None, Field(description="A name of `/v1/audio/voices`; ignored with a reference.")
    ] = DEFAULT
    response_format: Annotated[FormatName | None, Field(description="The audio format.")] = "wav"
    stream: Annotated[bool | None, Field(description="Send audio as it is made.")] = None
    stream_format: Annotated[
        Literal["audio", "sse"] | None,
        Field(description="Stream as raw bytes of the format, or as OpenAI's `speech.audio.delta` events."),
    ] = None
    references: Annotated[list[ReferenceBody] | None, Field(description="One recording to clone.")] = None
    reference_codes: Annotated[
        list[list[int]] | None,
        Field(description="Codes instead of a recording, [num_frames, num_codebooks], without delay."),
    ] = None
    reference_text: Annotated[str | None, Field(description="What the reference says.")] = None
    ref_audio: Annotated[str | None, Field(description="Short for `references[0].audio_path`.")] = None
    ref_text: Annotated[str | None, Field(description="Short for `references[0].text`.")] = None
    max_new_tokens: Annotated[int | None, Field(description="Rows of codes (40 ms each), at most.")] = None
    temperature: Annotated[float | None, Field(description="0 is greedy; null is the checkpoint's.")] = None
    top_p: Annotated[float | None, Field(description="Share of the probability drawn from.")] = None
    top_k: Annotated[int | None, Field(description="Number of candidates drawn from; 0 is all.")] = None
    seed: Annotated[int | None, Field(description="The same seed gives the same speech.")] = None
    runaway_guard: Annotated[
        bool | None, Field(description="Cut a generation far too long for its text.")
    ] = True
    check_tags: Annotated[bool | None, Field(description="Refuse control tags that do not exist.")] = True
    initial_codec_chunk_frames: Annotated[
        int | None, Field(ge=0, description="Frames in a stream's first chunk; 0 lets the server choose.")
    ] = None
    speed: Annotated[float | None, Field(description="Only 1.0 for now.")] = None
    instructions: Annotated[str | None, Field(description="Ignored for now, which a header says.")] = None


FIELDS = tuple(dict.fromkeys((*SpeechBody.model_fields, *ReferenceBody.model_fields)))


class Delivery(StrEnum):
    """How the audio goes out."""

    FILE = "file"
    RAW = "raw"  # the format's bytes as they are made
    CHUNKS = "chunks"  # `audio.speech.chunk` events
    DELTAS = "deltas"  # OpenAI's `speech.audio.delta` events


@dataclass(frozen=True)
class Order:
    """A validated body: what is asked of the pipeline, and in which form the caller wants it.

    `seed` is the one that will be used, None if the checkpoint has one of its own.
    """

    request: SpeechRequest
    format: str
    delivery: Delivery
    seed: int | None
    warnings: tuple[str, ...] = ()


class Reader:
    """Reads bodies for one served model."""

    def __init__(self, info: ModelInfo, voices: VoiceStore, config: Config) -> None:
        self.served_name = config.server.served_model_name or info.name
        self._model_names = {self.served_name, info.name, config.model.model, ""}
        self._info = info
        self._voices = voices
        self._max_chars = config.server.max_input_chars

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
            TooLargeError: the text is too long.
            RequestError: a value is out of range, or two of them contradict each other.
        """
        self.check_model(body.model)
        if len(body.input) > self._max_chars:
            raise TooLargeError(
                f"the text has {len(body.input)} characters, but at most {self._max_chars} are allowed: "
                "send it in parts",
                param="input",
                code="string_above_max_length",
            )
        if body.speed not in (None, 1):
            raise RequestError(
                f"speed is {body.speed}, but only 1.0 can be served: leave it out", param="speed"
            )
        seed = body.seed
        if seed is None and self._info.sampling.seed is None:
            # Drawn here and not in the model, so that the caller is told.
            seed = secrets.randbits(31)
        sampling = SamplingParams(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            seed=seed,
            max_new_tokens=body.max_new_tokens,
        )
        delivery = _delivery(body)
        request = SpeechRequest(
            request_id=request_id,
            text=body.input,
            reference=_reference(body) or self._voice(body.voice),
            sampling=sampling,
            runaway_guard=body.runaway_guard is not False,
            check_tags=body.check_tags is not False,
            stream=delivery is not Delivery.FILE,
            initial_chunk_frames=body.initial_codec_chunk_frames or None,
        )
        warnings = ("instructions are ignored",) if body.instructions else ()
        return Order(request, body.response_format or "wav", delivery, seed, warnings)

    def _voice(self, voice: str | VoiceName | None) -> Reference | None:
        return self._voices.get(voice.id if isinstance(voice, VoiceName) else voice or DEFAULT)


def _delivery(body: SpeechBody) -> Delivery:
    if body.stream_format == "sse":
        return Delivery.DELTAS
    if body.stream_format == "audio":
        return Delivery.FILE if body.stream is False else Delivery.RAW
    if not body.stream:
        return Delivery.FILE
    return Delivery.RAW if body.response_format == "pcm" else Delivery.CHUNKS


def _reference(body: SpeechBody) -> Reference | None:
    """The reference, wherever in the body its parts are."""
    if body.references and len(body.references) > 1:
        raise RequestError(
            f"references has {len(body.references)} items, but a voice is cloned from one", param="references"
        )
    item = body.references[0] if body.references else ReferenceBody()
    audio = _only("references", item.audio_path, item.audio, item.ref_audio, _data_uri(item), body.ref_audio)
    text = _only("reference_text", item.text, body.reference_text, body.ref_text)
    codes = None if body.reference_codes is None else _codes(body.reference_codes)
    if audio is not None and codes is not None:
        raise RequestError(
            "reference_codes and a recording are two voices: give one", param="reference_codes"
        )
    if audio is None and codes is None:
        if text is not None or body.references:
            raise RequestError(
                "the reference has no audio: give references[0].audio_path or reference_codes",
                param="references",
            )
        return None
    return Reference(audio=audio, codes=codes, text=text)


def _only(param: str, *values: str | None) -> str | None:
    given = set(filter(None, values))
    if len(given) > 1:
        raise RequestError(f"{param} is given twice, in different words: give it once", param=param)
    return given.pop() if given else None


def _data_uri(item: ReferenceBody) -> str | None:
    if item.data is None or item.data.startswith("data:"):
        return item.data
    return f"data:{item.media_type or ''};base64,{item.data}"


def _codes(rows: list[list[int]]) -> Array:
    try:
        codes = np.array(rows, np.int32)
    except (ValueError, OverflowError):
        codes = np.zeros(0, np.int32)
    if codes.ndim != 2 or codes.size == 0:
        raise RequestError(
            "reference_codes must be a list of frames of equally many codes each", param="reference_codes"
        )
    return codes

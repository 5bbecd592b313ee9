"""Knows the events of `/v1/realtime`, the part of OpenAI's Realtime API that turns text into audio.

https://platform.openai.com/docs/api-reference/realtime; what is about listening, tools or a model's own words
is let pass where a client always sends it, and refused where it would be waited for.
"""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stentor.errors import RequestError
from stentor.server.bodies import VoiceName
from stentor.server.errors import validated

M = TypeVar("M", bound=BaseModel)

FORMATS = {"audio/pcm": "pcm", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}


class _Part(BaseModel):
    """A part of a message that a client sends; fields that are not for a speaker are let pass."""

    model_config = ConfigDict(strict=True)


class AudioFormat(_Part):
    """The format of the audio; PCM has 24 kHz, the two of telephony have 8."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int | None = None

    @model_validator(mode="after")
    def _has_its_rate(self) -> Self:
        rate_hz = 24_000 if self.type == "audio/pcm" else 8_000
        if self.rate not in (None, rate_hz):
            raise ValueError(f"{self.type} has a rate of {rate_hz}, not {self.rate}")
        # Both count as given, so that nothing of another format stays beside them.
        self.type, self.rate = self.type, rate_hz
        return self


class AudioOutput(_Part):
    """How the audio is to be."""

    format: AudioFormat | None = None
    voice: str | VoiceName | None = None
    speed: Annotated[float | None, Field(ge=0.25, le=1.5)] = None


class AudioConfig(_Part):
    """The audio of a session or a response; its `input` is let pass."""

    output: AudioOutput | None = None


class SessionUpdate(_Part):
    """The fields of `session` in `session.update` that mean something here."""

    type: Literal["realtime"] = "realtime"
    output_modalities: list[Literal["audio"]] | None = None
    instructions: str | None = None
    audio: AudioConfig | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    seed: int | None = None  # Not OpenAI's: the same seed gives the same speech.


class ContentPart(_Part):
    """A part of a message's content."""

    type: str
    text: str | None = None


class MessageItem(_Part):
    """An item of the conversation: only messages with text are known."""

    type: Literal["message"]
    role: Literal["user", "system", "assistant"]
    id: str | None = None
    content: list[ContentPart]

    @property
    def text(self) -> str:
        """All text in it."""
        return " ".join(part.text for part in self.content if part.text)


class ResponseCreate(_Part):
    """The fields of `response` in `response.create` that mean something here."""

    conversation: Literal["auto", "none"] | None = None
    input: list[MessageItem] | None = None
    instructions: str | None = None
    output_modalities: list[Literal["audio"]] | None = None
    audio: AudioConfig | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    metadata: dict[str, Any] | None = None


def read(kind: type[M], value: Any, place: str) -> M:
    """What a client sent at `place`. Raises RequestError where it does not fit."""
    return validated(kind, value, _FIELDS, (place,))


_KINDS = (SessionUpdate, AudioConfig, AudioOutput, AudioFormat, ResponseCreate, MessageItem, ContentPart)
_FIELDS = tuple(dict.fromkeys(name for kind in _KINDS for name in kind.model_fields))


def merged(session: dict[str, Any], update: SessionUpdate) -> dict[str, Any]:
    """`session` with the fields that the update names, at every depth; null leaves a part as it is."""
    return _merge(session, update.model_dump(exclude_unset=True))


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    both = {**old, **new}
    for name, value in new.items():
        if isinstance(old.get(name), dict) and name != "voice":
            both[name] = _merge(old[name], value or {})
    return both


def no_text() -> RequestError:
    """The answer to a response that has nothing to say."""
    return RequestError(
        "there is no text to say: send a message with an input_text, as response.input or by "
        "conversation.item.create; this server speaks it word for word",
        param="response.input",
    )

"""Knows what ElevenLabs' clients ask for, and the order that it stands for.

https://elevenlabs.io/docs/api-reference/text-to-speech
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from stentor.errors import RequestError
from stentor.server.bodies import SpeechBody
from stentor.server.delivery import Form, RawBytes, WholeFile
from stentor.server.protocol import Delivery, Order, Reader, named

DEFAULT_FORMAT = "mp3_44100_128"

_PCM_RATES_HZ = (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_KBPS = (32, 64, 96, 128, 192)
# ElevenLabs' name of a codec, ours, and the rates in Hz with the bit rates in kbit/s that it names.
_CODECS: dict[str, tuple[str, dict[int, tuple[int, ...]]]] = {
    "mp3": ("mp3", {22_050: (32,), 24_000: (48,), 44_100: _KBPS}),
    "opus": ("opus", {48_000: _KBPS}),
    "pcm": ("pcm", dict.fromkeys(_PCM_RATES_HZ, ())),
    "wav": ("wav", dict.fromkeys(_PCM_RATES_HZ, ())),
    "ulaw": ("mulaw", {8_000: ()}),
    "alaw": ("alaw", {8_000: ()}),
}
# Names of ElevenLabs' own models mean the one that is served.
_FOREIGN_MODELS = "eleven_"
# ElevenLabs' names for our fields.
NAMES = {"input": "text", "model": "model_id", "speed": "voice_settings.speed"}


@dataclass(frozen=True)
class OutputFormat:
    """A format by ElevenLabs' name: the codec as we call it; `bit_rate` in bits per second."""

    codec: str
    sample_rate_hz: int
    bit_rate: int | None = None

    def form(self, delivery: Delivery) -> Form:
        """A new form for one stream in this format."""
        kind = WholeFile if delivery is Delivery.FILE else RawBytes
        return kind(self.codec, self.sample_rate_hz, self.bit_rate)


def formats() -> dict[str, OutputFormat]:
    """Every format by its name, for example mp3_44100_128."""
    known: dict[str, OutputFormat] = {}
    for name, (codec, rates) in _CODECS.items():
        for rate_hz, bit_rates in rates.items():
            known |= {
                f"{name}_{rate_hz}_{kbps}": OutputFormat(codec, rate_hz, 1000 * kbps) for kbps in bit_rates
            }
            if not bit_rates:
                known[f"{name}_{rate_hz}"] = OutputFormat(codec, rate_hz)
    return known


def output_format(name: str | None) -> OutputFormat:
    """The format of that name; RequestError if there is none."""
    known = formats()
    if (name or DEFAULT_FORMAT) not in known:
        raise RequestError(
            f"the output format {str(name)[:100]!r} is unknown: choose one of {', '.join(known)}",
            param="output_format",
            code="invalid_output_format",
        )
    return known[name or DEFAULT_FORMAT]


class VoiceSettings(BaseModel):
    """How the voice is to speak; `speed` is followed, the others are of another model and ignored."""

    model_config = ConfigDict(extra="allow")

    speed: float | None = None


class SpeechFields(BaseModel):
    """The body of `/v1/text-to-speech/{voice_id}`; what is not here is ignored, which a header says."""

    model_config = ConfigDict(extra="allow")

    text: Annotated[str, Field(description="The text, with control tags where the model knows them.")]
    model_id: Annotated[
        str | None, Field(description="The served model; any of ElevenLabs' own names means it, too.")
    ] = None
    language_code: Annotated[str | None, Field(description="As `language` of `/v1/audio/speech`.")] = None
    voice_settings: Annotated[
        VoiceSettings | None, Field(description="`speed` (0.25 to 4) is followed, the others are ignored.")
    ] = None
    seed: Annotated[int | None, Field(description="The same seed gives the same speech.")] = None


def speech_body(voice: str, fields: SpeechFields, format: OutputFormat, *, streamed: bool) -> SpeechBody:
    """The body of a speech request that says the same."""
    settings = fields.voice_settings or VoiceSettings()
    model = fields.model_id
    return SpeechBody(
        input=fields.text,
        voice=voice,
        model=None if model is None or model.startswith(_FOREIGN_MODELS) else model,
        speed=settings.speed,
        seed=fields.seed,
        language=fields.language_code,
        response_format="pcm",
        sample_rate=format.sample_rate_hz,
        stream=streamed,
        stream_format="audio" if streamed else None,
    )


def read(
    reader: Reader, body: SpeechBody, format: OutputFormat, fields: SpeechFields, request_id: str
) -> Order:
    """The order of a request. Raises what `Reader.read` does."""
    with named(NAMES):
        order = reader.read(body, request_id)
    warnings = (*order.warnings, *_ignored(fields))
    return replace(order, format=format.codec, warnings=warnings, names=NAMES)


def _ignored(fields: SpeechFields) -> tuple[str, ...]:
    extra: dict[str, Any] = dict(fields.model_extra or {})
    for name, value in (fields.voice_settings.model_extra or {} if fields.voice_settings else {}).items():
        extra[f"voice_settings.{name}"] = value
    names = [name for name, value in extra.items() if value not in (None, False, [], "", "auto")]
    # A header holds ASCII; a field's name comes from the client.
    told = [name.encode("ascii", "replace").decode()[:60] for name in names[:20] if name.isprintable()]
    return (f"ignored: {', '.join(told)}",) if told else ()

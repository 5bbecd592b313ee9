import pytest

from stentor.audio.formats import Encoder
from stentor.errors import RequestError
from stentor.server.elevenlabs.bodies import (
    OutputFormat,
    SpeechFields,
    formats,
    output_format,
    read,
    speech_body,
)
from stentor.server.protocol import Delivery, Reader
from tests.server.fakes import INFO, RATE, config, tone, voices


def order(fields: SpeechFields, format: OutputFormat, *, streamed: bool = False) -> object:
    reader = Reader(INFO, voices(), config())
    return read(reader, speech_body("default", fields, format, streamed=streamed), format, fields, "id-1")


def test_the_names_are_those_of_elevenlabs() -> None:
    assert len(formats()) == 28
    assert output_format(None) == OutputFormat("mp3", 44_100, 128_000)
    assert output_format("ulaw_8000") == OutputFormat("mulaw", 8_000)
    with pytest.raises(RequestError, match="mp3_22050_32"):
        output_format("mp3_44100_1")


@pytest.mark.parametrize("name", formats())
def test_every_format_can_be_encoded(name: str) -> None:
    format = formats()[name]
    encoder = Encoder(format.codec, format.sample_rate_hz, format.bit_rate)
    assert len(encoder.encode(tone(0.3)[: round(0.3 * RATE)]) + encoder.finish()) > 100


def test_a_higher_bit_rate_is_a_larger_file() -> None:
    sizes = []
    for name in ("mp3_44100_32", "mp3_44100_192"):
        encoder = Encoder("mp3", 44_100, formats()[name].bit_rate)
        sizes.append(len(encoder.encode(tone(1.0)) + encoder.finish()))
    assert sizes[1] > 3 * sizes[0]


def test_an_order_is_that_of_a_speech_request() -> None:
    fields = SpeechFields.model_validate(
        {
            "text": "Hello.",
            "model_id": "eleven_v3",
            "seed": 5,
            "language_code": "de",
            "voice_settings": {"speed": 1.1},
        }
    )
    made = order(fields, formats()["ulaw_8000"], streamed=True)
    assert (made.request.text, made.request.language) == ("Hello.", "de")
    assert (made.seed, made.format, made.delivery) == (5, "mulaw", Delivery.RAW)
    assert (made.shape.speed, made.shape.sample_rate_hz) == (1.1, 8_000)
    assert made.warnings == ()


def test_what_is_ignored_is_said() -> None:
    fields = SpeechFields.model_validate(
        {
            "text": "Hello.",
            "previous_text": "Before.",
            "next_text": None,
            "apply_text_normalization": "auto",
            "voice_settings": {"stability": 0.5, "use_speaker_boost": False},
        }
    )
    assert order(fields, formats()["pcm_24000"]).warnings == (
        "ignored: previous_text, voice_settings.stability",
    )


def test_another_model_is_refused() -> None:
    with pytest.raises(RequestError, match="there is no model"):
        order(SpeechFields(text="Hello.", model_id="other"), formats()["pcm_24000"])

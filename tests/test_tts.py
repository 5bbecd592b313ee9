"""Laws of the offline facade, on a small random checkpoint of the real format."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from stentor.audio.formats import encode_file
from stentor.audio.load import decode
from stentor.audio.shape import Shape, Shaper
from stentor.cli.codec import encode_reference, enroll_reference
from stentor.config import Config, ModelConfig, PipelineConfig, ServerConfig, override
from stentor.errors import ConfigError, NotFoundError, OverloadedError, RequestError
from stentor.pipeline.kept_voice import KeptVoice
from stentor.request import FinishReason, ModelInfo, Reference, SpeechRequest
from stentor.tts import (
    OFFLINE,
    TTS,
    Speech,
    build_chain_server,
    build_pipeline,
    by_device,
    format_of,
)
from stentor.voices import VoiceStore
from tests.checkpoints import make_checkpoint
from tests.sound import shape_whole

TEXT = "The old dog saw the small boat."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tts") / "checkpoint")


@pytest.fixture(scope="module")
def tts(checkpoint: Path) -> Iterator[TTS]:
    with TTS(checkpoint) as started:
        yield started


@pytest.fixture(scope="module")
def speech(tts: TTS) -> Speech:
    return tts.speak(TEXT, seed=7, max_new_tokens=40)


def test_speech_is_sound_with_its_codes_and_how_it_ended(speech: Speech) -> None:
    assert speech.sample_rate_hz == 24_000
    assert speech.waveform.dtype == np.float32
    assert speech.codes is not None
    assert speech.codes.shape == (len(speech.waveform) // 960, 8)
    assert speech.finish_reason in set(FinishReason)
    assert speech.usage is not None
    assert speech.usage.completion_tokens <= 40
    assert speech.duration_s == len(speech.waveform) / 24_000
    assert np.abs(speech.waveform).max() > 0


def test_the_same_seed_gives_the_same_speech_streamed_or_not(tts: TTS, speech: Speech) -> None:
    stream = tts.stream(TEXT, seed=7, max_new_tokens=40)
    chunks = list(stream)
    assert len(chunks) > 1
    np.testing.assert_allclose(np.concatenate(chunks), speech.waveform, atol=1 / 32768)
    assert (stream.finish_reason, stream.usage) == (speech.finish_reason, speech.usage)
    np.testing.assert_array_equal(stream.codes, speech.codes)


def test_a_repetition_penalty_changes_the_speech_and_not_its_stream(tts: TTS, speech: Speech) -> None:
    whole = tts.speak(TEXT, seed=7, max_new_tokens=40, repetition_penalty=1.5)
    stream = tts.stream(TEXT, seed=7, max_new_tokens=40, repetition_penalty=1.5)
    np.testing.assert_allclose(np.concatenate(list(stream)), whole.waveform, atol=1 / 32768)
    np.testing.assert_array_equal(stream.codes, whole.codes)
    assert not np.array_equal(whole.codes, speech.codes)


SHAPES: list[dict[str, Any]] = [
    {"speed": 1.5},
    {"sample_rate_hz": 8_000},
    {"loudness_lufs": -30.0},
    {"speed": 0.8, "sample_rate_hz": 16_000, "loudness_lufs": -20.0, "trim_silence": False},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_speech_is_shaped_as_every_door_shapes_it(tts: TTS, shape: dict[str, Any]) -> None:
    plain = tts.speak(TEXT, seed=7, max_new_tokens=40, trim_silence=False).waveform
    speech = tts.speak(TEXT, seed=7, max_new_tokens=40, **shape)
    assert speech.sample_rate_hz == shape.get("sample_rate_hz", 24_000)
    np.testing.assert_array_equal(speech.waveform, shape_whole(plain, Shape(**shape), 24_000))
    stream = tts.stream(TEXT, seed=7, max_new_tokens=40, **shape)
    shaper = Shaper(Shape(**shape), 24_000)
    streamed = np.concatenate((shaper.feed(plain), shaper.finish()))
    heard = np.concatenate(list(stream))
    assert heard.shape == streamed.shape
    np.testing.assert_allclose(heard, streamed, atol=1e-3)
    assert list(stream) == []


def test_instructions_are_tags_before_the_text_and_are_told_of(tts: TTS) -> None:
    spoken = tts.speak(TEXT, seed=7, max_new_tokens=10, instructions="Whisper.")
    assert spoken.notes == ("instructions are read as <|style:whispering|>",)
    tagged = tts.speak(f"<|style:whispering|> {TEXT}", seed=7, max_new_tokens=10)
    np.testing.assert_array_equal(spoken.codes, tagged.codes)
    assert "ignored" in tts.speak(TEXT, max_new_tokens=10, instructions="Like a pirate.").notes[0]


def test_the_context_of_the_settings_is_what_a_long_text_is_measured_by(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def keep(info: ModelInfo, longest_s: float) -> KeptVoice:
        told.append(info.context_limit)
        return KeptVoice(info, longest_s)

    monkeypatch.setattr("stentor.tts.KeptVoice", keep)
    config = override(OFFLINE, {"engine": {"max_context": 256}})
    with TTS(checkpoint, config=config) as small:
        small.speak(TEXT, max_new_tokens=9)
        assert [*told, small.info.context_limit] == [256, 256]


def test_numbers_may_be_numpys(tts: TTS) -> None:
    options = {"seed": np.int64(7), "max_new_tokens": np.int32(12), "temperature": np.float32(0.5)}
    said = tts.speak(TEXT, **options)  # type: ignore[arg-type]
    assert said.seed == 7
    plain = tts.speak(TEXT, seed=7, max_new_tokens=12, temperature=0.5)
    np.testing.assert_array_equal(said.codes, plain.codes)


def test_without_a_seed_each_speech_is_another_and_tells_its_seed(tts: TTS) -> None:
    first, second = (tts.speak(TEXT, max_new_tokens=12) for _ in range(2))
    assert first.seed is not None
    assert first.seed != second.seed
    assert not np.array_equal(first.codes, second.codes)
    again = tts.speak(TEXT, max_new_tokens=12, seed=first.seed)
    np.testing.assert_array_equal(again.codes, first.codes)


def test_a_stream_that_is_closed_or_abandoned_frees_its_place(checkpoint: Path) -> None:
    config = Config(
        model=ModelConfig(model=str(checkpoint)), pipeline=PipelineConfig("thread", max_requests=1)
    )
    with TTS(config=config) as tts:
        stream = tts.stream(TEXT, seed=7, max_new_tokens=400)
        next(stream)
        with pytest.raises(OverloadedError):
            tts.stream(TEXT)
        stream.close()
        for _ in tts.stream(TEXT, seed=7, max_new_tokens=400):
            break
        assert eventually_speaks(tts)


def eventually_speaks(tts: TTS) -> bool:
    """A stream that nobody holds is noticed soon, not at once."""
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        try:
            return tts.speak(TEXT, max_new_tokens=9).codes is not None
        except OverloadedError:
            time.sleep(0.01)
    return False


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_saved_file_holds_the_speech(speech: Speech, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"hello.{suffix}"
    speech.save(path)
    heard = decode(path.read_bytes(), sample_rate_hz=24_000, max_seconds=60)
    np.testing.assert_allclose(heard, np.clip(speech.waveform, -1, 1), atol=1.5 / 32768)


def test_a_name_without_a_known_suffix_is_an_error_that_lists_them(speech: Speech, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"\.wav"):
        speech.save(tmp_path / "hello.doc")
    assert format_of("a.b/C.MP3") == "mp3"


@pytest.fixture(scope="module")
def recording() -> bytes:
    rng = np.random.default_rng(0)
    tone = 0.3 * np.sin(np.arange(24_000) * 0.05) + 0.05 * rng.standard_normal(24_000)
    return encode_file(tone.astype(np.float32), "wav", 24_000)


def test_a_reference_may_be_bytes_a_file_or_its_codes(
    tts: TTS, checkpoint: Path, recording: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "me.wav"
    path.write_bytes(recording)
    codes = encode_reference(path, Config(model=ModelConfig(model=str(checkpoint))))
    assert codes.shape == (25, 8)
    made = [
        tts.speak(TEXT, seed=1, max_new_tokens=20, reference=reference, reference_text="Hello.").codes
        for reference in (recording, path, str(path), codes)
    ]
    for other in made[1:]:
        np.testing.assert_array_equal(other, made[0])
    plain = tts.speak(TEXT, seed=1, max_new_tokens=20).codes
    assert not np.array_equal(plain, made[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"reference": "no/such/file.wav"}, "cannot be read"),
        ({"reference": b"not audio"}, "not audio"),
        ({"reference_text": "alone"}, "reference"),
        ({"voice": "nobody"}, "nobody"),
        ({"speed": 5.0}, "speed"),
        ({"speed": float("nan")}, "speed"),
        ({"sample_rate_hz": 1}, "sample_rate"),
        ({"loudness_lufs": 3.0}, "loudness_lufs"),
        ({"repetition_penalty": 3.0}, "repetition_penalty"),
        ({"velocity": 2.0}, "velocity"),
        ({"language": "\ud83d"}, "half a character"),
    ],
)
def test_bad_options_are_errors_that_name_them(tts: TTS, options: dict[str, object], words: str) -> None:
    with pytest.raises((RequestError, TypeError), match=words):
        tts.speak(TEXT, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "  \n", "Hello <|emotion:elatoin|>."])
def test_a_text_that_cannot_be_said_is_refused(tts: TTS, text: str) -> None:
    with pytest.raises(RequestError):
        tts.speak(text)


def test_a_missing_model_or_a_wrong_setting_is_an_error_at_once() -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        TTS("nowhere")
    with pytest.raises(ConfigError, match="--port"):
        build_pipeline(Config(server=ServerConfig(port=-1)))


def test_each_device_has_a_model_of_its_own() -> None:
    config = override(OFFLINE, {"model": {"device": "cuda:0, cpu,tcp://a:9000,cpu"}})
    assert [each.model.device for each in by_device(config)] == ["cuda:0", "cpu", "tcp://a:9000", "cpu"]
    for twice in ("cuda:1,cuda:1", "auto,auto", "tcp://a:9000,cpu,tcp://a:9000"):
        with pytest.raises(ConfigError, match="name each once"):
            by_device(override(OFFLINE, {"model": {"device": twice}}))


def test_a_worker_is_for_one_device_of_its_own_machine(checkpoint: Path) -> None:
    for device in ("cpu,cpu", "tcp://127.0.0.1:9000"):
        config = override(OFFLINE, {"model": {"model": str(checkpoint), "device": device}})
        with pytest.raises(ConfigError, match="a worker for each device"):
            build_chain_server(config, "tcp://127.0.0.1:0")


def test_what_is_served_is_told_with_the_context_that_it_is_given(checkpoint: Path) -> None:
    for max_context, told in ((512, 512), (2**20, 32_768)):
        config = override(
            OFFLINE, {"model": {"model": str(checkpoint)}, "engine": {"max_context": max_context}}
        )
        info, pipeline = build_pipeline(config)
        pipeline.close()
        assert info.context_limit == told


@pytest.fixture(scope="module")
def sentence() -> bytes:
    """A recording of the built-in voice, with silence around it."""
    with TTS() as tts:
        waveform = tts.speak(TEXT, seed=0).waveform
    return encode_file(np.pad(waveform, 24_000), "wav", 24_000)


def test_a_voice_that_was_made_once_is_spoken_by_name(sentence: bytes, tmp_path: Path) -> None:
    config = override(OFFLINE, {"reference": {"voices_folder": str(tmp_path)}})
    enrolled = enroll_reference(sentence, TEXT, config)
    assert enrolled.codes is not None
    # A second of silence is gone from either end.
    assert len(enrolled.waveform) < len(decode(sentence, sample_rate_hz=24_000, max_seconds=30)) - 24_000
    with TTS(config=config) as tts:
        VoiceStore(tts.info, config.reference).add("Rosa", enrolled.codes, transcript=TEXT)
        made = [
            tts.speak("A red box.", seed=3, max_new_tokens=30, **options).codes
            for options in ({"voice": "Rosa"}, {"reference": enrolled.codes, "reference_text": TEXT}, {})
        ]
    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_a_pipeline_enrolls_beside_speaking(sentence: bytes) -> None:
    expected = enroll_reference(sentence, None, OFFLINE)
    _, pipeline = build_pipeline(OFFLINE)
    pipeline.start()
    try:
        speaking = pipeline.submit(SpeechRequest("speak", TEXT, stream=True))
        asked = SpeechRequest("enroll", "a voice", Reference(audio=sentence), enroll=True)
        (enrolled,) = list(pipeline.submit(asked))
        np.testing.assert_array_equal(enrolled.codes, expected.codes)
        np.testing.assert_array_equal(enrolled.waveform, expected.waveform)
        codes = Reference(codes=expected.codes)
        (again,) = list(pipeline.submit(structs.replace(asked, request_id="again", reference=codes)))
        np.testing.assert_array_equal(again.codes, expected.codes)
        silence = encode_file(np.zeros(48_000, np.float32), "wav", 24_000)
        refused = pipeline.submit(
            structs.replace(asked, request_id="bad", reference=Reference(audio=silence))
        )
        with pytest.raises(RequestError, match="silent"):
            list(refused)
        assert len(list(speaking)) > 1
    finally:
        pipeline.close()

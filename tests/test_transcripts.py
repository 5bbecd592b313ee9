"""Laws of references without words: what the recogniser hears is used as if the user had said it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from stentor.audio.enroll import enroll
from stentor.audio.formats import encode_file
from stentor.audio.resample import resample
from stentor.cli.codec import encode_reference, enroll_reference, inline_stages
from stentor.cli.main import app
from stentor.config import Config, PipelineConfig, override
from stentor.errors import ConfigError
from stentor.request import Array, Prompt, Reference, SpeechRequest
from stentor.tts import OFFLINE, TTS, Speech, build_pipeline
from tests.whisper import RATE_HZ, WINDOW_S, make_whisper

SENTENCES = ("The old dog saw the small boat.", "A young girl found the red box.")
MODEL_RATE_HZ = 24_000
FLAGS = ("--max-seconds", str(WINDOW_S), "--asr")


@pytest.fixture(scope="module")
def told() -> Iterator[TTS]:
    """The built-in voice, which hears nothing."""
    with TTS() as tts:
        yield tts


@pytest.fixture(scope="module")
def spoken(told: TTS) -> dict[str, Speech]:
    """Both sentences in the built-in voice."""
    return {text: told.speak(text, seed=0) for text in SENTENCES}


@pytest.fixture(scope="module")
def recordings(spoken: dict[str, Speech]) -> dict[str, bytes]:
    """The same, as files."""
    return {text: speech.encode("wav") for text, speech in spoken.items()}


@pytest.fixture(scope="module")
def recogniser(spoken: dict[str, Speech], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It knows the two, whole and as they are enrolled."""
    says = {
        text: [speech.waveform, enroll(speech.waveform, MODEL_RATE_HZ, WINDOW_S, whole=False)]
        for text, speech in spoken.items()
    }
    heard = {text: [resample(clip, MODEL_RATE_HZ, RATE_HZ) for clip in clips] for text, clips in says.items()}
    return make_whisper(tmp_path_factory.mktemp("recogniser"), heard, rounds=160)


@pytest.fixture(scope="module")
def config(recogniser: Path) -> Config:
    return override(OFFLINE, {"reference": {"asr": str(recogniser), "max_seconds": WINDOW_S}})


@pytest.fixture(scope="module")
def hearing(config: Config) -> Iterator[TTS]:
    """The built-in voice, which hears what a reference says."""
    with TTS(config=config) as tts:
        yield tts


def codes_of(tts: TTS, recording: bytes, words: str | None) -> Array:
    codes = tts.speak("Hello.", seed=3, max_new_tokens=30, reference=recording, reference_text=words).codes
    assert codes is not None
    return codes


def test_a_clone_without_a_transcript_is_the_one_with_it(
    recordings: dict[str, bytes], hearing: TTS, told: TTS
) -> None:
    for text, recording in recordings.items():
        expected = codes_of(told, recording, text)
        np.testing.assert_array_equal(codes_of(hearing, recording, None), expected)
        assert not np.array_equal(codes_of(told, recording, None), expected)


def test_what_is_heard_stands_where_the_transcript_does(recordings: dict[str, bytes], config: Config) -> None:
    text, recording = next(iter(recordings.items()))
    prompts = []
    with inline_stages(config, "preprocess") as stages:
        for words in (None, text, "Other words."):
            (prompt,) = stages.run("r", SpeechRequest("r", "Hello.", Reference(recording, text=words)))
            assert isinstance(prompt, Prompt)
            prompts.append(prompt)
    heard, told, other = prompts
    np.testing.assert_array_equal(heard.token_ids, told.token_ids)
    assert heard.reference_start == told.reference_start
    assert not np.array_equal(heard.token_ids, other.token_ids)


@pytest.mark.parametrize("workers", ["thread", "process"])
def test_a_pipeline_enrolls_with_the_words_that_it_hears(
    recordings: dict[str, bytes], config: Config, workers: str
) -> None:
    workers_config = PipelineConfig(workers=workers)  # type: ignore[arg-type]
    _, pipeline = build_pipeline(Config(pipeline=workers_config, reference=config.reference))
    pipeline.start()
    try:
        for text, recording in recordings.items():
            codes = enroll_reference(recording, "any", OFFLINE).codes
            for words in (None, "my own words"):
                request = SpeechRequest(f"{words}", "a voice", Reference(recording, text=words), enroll=True)
                (enrolled,) = list(pipeline.submit(request))
                assert enrolled.transcript == (words or text)
                np.testing.assert_array_equal(enrolled.codes, codes)
    finally:
        pipeline.close()


def test_a_voice_of_the_command_line_keeps_what_was_heard(
    recordings: dict[str, bytes], recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STENTOR_REFERENCE_VOICES_FOLDER", str(tmp_path / "voices"))
    text, recording = next(iter(recordings.items()))
    (tmp_path / "me.wav").write_bytes(recording)
    made = CliRunner().invoke(
        app, ["voices", "add", "Rosa", str(tmp_path / "me.wav"), *FLAGS, str(recogniser)]
    )
    assert made.exit_code == 0, made.output
    assert f"s of speech, heard: {text}\n" in made.stderr
    shown = CliRunner().invoke(app, ["voices", "show", "Rosa"])
    assert json.loads(shown.stdout)["transcript"] == text


def test_the_command_line_says_with_what_it_hears(
    recordings: dict[str, bytes], recogniser: Path, tmp_path: Path
) -> None:
    text, recording = next(iter(recordings.items()))
    (tmp_path / "me.wav").write_bytes(recording)
    how = ["--reference", str(tmp_path / "me.wav"), "--seed", "3", "--max-new-tokens", "30"]
    said = []
    for name, more in (("heard", [*FLAGS, str(recogniser)]), ("told", ["--reference-text", text])):
        output = tmp_path / f"{name}.wav"
        done = CliRunner().invoke(app, ["say", "Hello.", "-o", str(output), *how, *more])
        assert done.exit_code == 0, done.output
        said.append(output.read_bytes())
    assert said[0] == said[1]


def test_codes_alone_are_encoded_without_being_heard(
    recordings: dict[str, bytes], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("nobody asked")

    monkeypatch.setattr("stentor.models.whisper.recogniser.Whisper.transcribe", never)
    recording = recordings[SENTENCES[0]]
    np.testing.assert_array_equal(encode_reference(recording, config), encode_reference(recording, OFFLINE))


def test_a_reference_of_noise_is_cloned_without_words(
    hearing: TTS, told: TTS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stentor.models.whisper.recogniser.Whisper._words", lambda *_: [""])
    noise = encode_file(np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32), "wav", 24_000)
    np.testing.assert_array_equal(codes_of(hearing, noise, None), codes_of(told, noise, None))


def test_a_recogniser_that_cannot_serve_is_told_at_the_start(config: Config, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json"):
        build_pipeline(override(config, {"reference": {"asr": str(tmp_path)}}))

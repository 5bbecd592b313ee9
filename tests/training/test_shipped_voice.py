"""The shipped weights through the whole engine: is it still speech? A change that harms it fails here."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from stentor import TTS
from stentor.tts import OFFLINE
from training.cloning import words_right
from training.recognition import Recogniser, closed_grammar
from training.reconstruction import coded, pitch_kept
from training.tag_effects import measure
from training.texts import as_sentence, held_out_sus

SENTENCES = held_out_sus(6, 9006)


@pytest.fixture(scope="module")
def tts() -> Iterator[TTS]:
    with TTS() as tts:
        yield tts


def spoken(tts: TTS, texts: list[str]) -> list[np.ndarray]:
    """All at once: a batch costs less, and says the same."""
    with ThreadPoolExecutor(len(texts)) as pool:
        jobs = [pool.submit(tts.speak, text, seed=index) for index, text in enumerate(texts)]
        return [job.result().waveform for job in jobs]


@pytest.fixture(scope="module")
def plain(tts: TTS) -> list[np.ndarray]:
    return spoken(tts, list(map(as_sentence, SENTENCES)))


def test_its_words_are_understood(plain: list[np.ndarray]) -> None:
    recogniser = Recogniser()
    recogniser.use(closed_grammar())
    assert words_right(recogniser, plain, SENTENCES) >= 90


def test_what_is_encoded_and_decoded_again_keeps_words_and_pitch(plain: list[np.ndarray]) -> None:
    recogniser = Recogniser()
    recogniser.use(closed_grammar())
    passed = [coded(waveform, OFFLINE) for waveform in plain]
    assert words_right(recogniser, passed, SENTENCES) >= 90
    semitones, voicing = pitch_kept(plain, passed)
    assert 0 < semitones < 0.5
    assert 90 < voicing < 100


def test_it_has_a_womans_pitch_and_no_clicks(plain: list[np.ndarray]) -> None:
    pitches = [measure(waveform).pitch_hz for waveform in plain]
    assert 145 < np.median(pitches) < 200
    assert max(float(np.abs(waveform[:48]).max()) for waveform in plain) < 0.05


def test_tags_change_how_it_speaks(tts: TTS, plain: list[np.ndarray]) -> None:
    def tagged(tag: str) -> dict[str, float]:
        texts = [f"<|{tag}|>{as_sentence(words)}" for words in SENTENCES[:3]]
        sounds = list(map(measure, spoken(tts, texts)))
        return {name: float(np.median([getattr(s, name) for s in sounds])) for name in vars(sounds[0])}

    base = float(np.median([measure(waveform).speech_s for waveform in plain[:3]]))
    assert tagged("prosody:speed_very_slow")["speech_s"] > 1.1 * base
    shouted, whispered = tagged("style:shouting"), tagged("style:whispering")
    assert shouted["pitch_hz"] > 195
    assert whispered["voiced_percent"] < 25
    assert whispered["level_db"] < shouted["level_db"] - 5


def test_named_voices_have_their_own_pitch(tts: TTS) -> None:
    text = as_sentence(SENTENCES[0])
    pitch_hz = {
        name: measure(tts.speak(text, voice=name, seed=1).waveform).pitch_hz for name in ("bruno", "ida")
    }
    assert pitch_hz["bruno"] < 115 < 170 < pitch_hz["ida"]

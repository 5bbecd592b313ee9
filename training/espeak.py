"""Knows how to make espeak-ng speak in this process: further speakers, and languages other than English."""

import ctypes
import random
import shutil
from pathlib import Path

import numpy as np
import soxr

from training.speakers import Speaker
from training.synthesis import SAMPLE_RATE_HZ, Utterance, levelled, synthesiser_library

# Language code: the speaker of its utterances. All share one variant, of nearly the default voice's pitch.
LANGUAGES = {code: Speaker(code, f"espeak:{code}+f2", 180, 30) for code in ("de", "es", "fr", "it", "ru")}
_FAMILIES = ("gmw", "roa", "zle")
_SYNCHRONOUS, _UTF8, _RATE, _PITCH = 2, 1, 1, 3
_WORDS_PER_MINUTE = 155
_MARGIN_S = (0.08, 0.16)
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """espeak-ng (Debian package `espeak-ng`); one for each process."""

    def __init__(self, data: Path | None = None) -> None:
        """`data`: a folder with further variants (see `write_variants`)."""
        self._library = synthesiser_library("libespeak-ng.so.1")
        path = None if data is None else str(data).encode()
        self._rate_hz = self._library.espeak_Initialize(_SYNCHRONOUS, 0, path, 0)
        self._parts: list[np.ndarray] = []
        # The callback must outlive every call.
        self._callback = _CALLBACK(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    @property
    def data(self) -> Path:
        """The folder that its voices are read from."""
        folder = ctypes.c_char_p()
        self._library.espeak_Info.restype = ctypes.c_char_p
        self._library.espeak_Info(ctypes.byref(folder))
        return Path((folder.value or b"").decode())

    def _take(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int) -> int:
        if samples and count:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, text: str, speaker: Speaker) -> Utterance:
        """Speaks `text` with the speaker's espeak voice; no phoneme times."""
        library, data = self._library, text.encode()
        if library.espeak_SetVoiceByName(speaker.base.removeprefix("espeak:").encode()):
            raise ValueError(f"espeak-ng has no voice {speaker.base}")
        library.espeak_SetParameter(_RATE, int(_WORDS_PER_MINUTE * speaker.rate), 0)
        library.espeak_SetParameter(_PITCH, 45, 0)
        self._parts = []
        library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, _UTF8, None, None)
        samples = np.concatenate(self._parts).astype(np.float32)
        samples = soxr.resample(samples, self._rate_hz, SAMPLE_RATE_HZ)
        loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
        first = max(0, loud[0] - int(_MARGIN_S[0] * SAMPLE_RATE_HZ))
        samples = samples[first : loud[-1] + int(_MARGIN_S[1] * SAMPLE_RATE_HZ)]
        return Utterance(text, levelled(samples, speaker.tilt, 0.0), [])


def write_variants(folder: Path, variants: dict[str, str]) -> None:
    """A copy of espeak-ng's data in `folder`, with some 200 further variants of its voices by name.

    It knows 350 voices at most, so those of languages that nobody speaks here are left out.
    """

    def foreign(parent: str, names: list[str]) -> list[str]:
        kept = _FAMILIES if Path(parent).name == "lang" else names
        return [name for name in names if name not in kept or name.startswith("mb")]

    shutil.copytree(Espeak().data, folder, dirs_exist_ok=True, ignore=foreign)
    for name, text in variants.items():
        (folder / "voices" / "!v" / name).write_text(text)


class LanguageSource:
    """Sentences of frequent words of a language, without sense: wordfreq's lists, drawn by frequency."""

    def __init__(self, language: str, seed: int, words: int = 3000) -> None:
        import wordfreq

        self._random = random.Random(seed)
        listed = wordfreq.top_n_list(language, words)
        self._words = [word for word in listed if word.isalpha()]
        # Flatter than speech, so that rarer words are heard too.
        self._weights = [wordfreq.word_frequency(word, language) ** 0.6 for word in self._words]

    def next(self) -> str:
        """The next sentence of three to ten words."""
        rng = self._random
        words = rng.choices(self._words, self._weights, k=rng.randint(3, 10))
        if len(words) >= 7 and rng.random() < 0.4:
            cut = rng.randint(2, 5)
            words[cut] += ","
        text = " ".join(words)
        return text[0].upper() + text[1:] + rng.choices([".", "?", "!", ""], [0.7, 0.13, 0.07, 0.1])[0]

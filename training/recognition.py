"""Knows how PocketSphinx tells words apart when a grammar limits what may be said, and counts word errors."""

import random
import re
from pathlib import Path

import numpy as np
import soxr

from training.texts import SUS_ADJECTIVES, SUS_ADVERBS, SUS_NOUNS, SUS_VERBS

RECOGNISER_RATE_HZ = 16_000


def _model_path() -> Path:
    import pocketsphinx

    return Path(pocketsphinx.__file__).parent / "model/en-us"


def closed_grammar() -> str:
    """JSGF of the closed-grammar test."""

    def one_of(words: list[str]) -> str:
        return "(" + " | ".join(words) + ")"

    phrase = f"the {one_of(SUS_ADJECTIVES)} {one_of(SUS_NOUNS)}"
    rule = f"{phrase} {one_of(SUS_VERBS)} {phrase} [ {one_of(SUS_ADVERBS)} ]"
    return f"#JSGF V1.0;\ngrammar g;\npublic <s> = {rule};\n"


class ForcedChoice:
    """Grammars in which every word of a sentence competes with 10 like-sounding and 10 random words."""

    def __init__(self, seed: int = 7) -> None:
        self._random = random.Random(seed)
        self._sounds: dict[str, list[str]] = {}
        for line in (_model_path() / "cmudict-en-us.dict").read_text().splitlines():
            word, *phonemes = line.split()
            if re.fullmatch(r"[a-z]+('[a-z]+)?", word):
                self._sounds.setdefault(word, phonemes)
        self._words = sorted(self._sounds)

    def grammar(self, words: list[str]) -> str:
        """JSGF with one slot for each word."""
        slots = []
        for word in words:
            sample = [w for w in self._random.sample(self._words, 610) if w != word]
            near = sorted(sample[:600], key=lambda w: (_distance(self._sounds[word], self._sounds[w]), w))[
                :10
            ]
            slots.append(
                "(" + " | ".join([word, *dict.fromkeys(near + self._random.sample(sample, 10))]) + ")"
            )
        return "#JSGF V1.0;\ngrammar g;\npublic <s> = " + " ".join(slots) + ";\n"


def word_errors(words: list[str], heard: list[str]) -> int:
    """Substitutions, deletions and insertions, at most as many as there are words."""
    return min(_distance(words, heard), len(words))


def _distance(left: list[str], right: list[str]) -> int:
    """Edit distance of two sequences."""
    previous = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        current = [i]
        for j, b in enumerate(right, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (a != b)))
        previous = current
    return previous[-1]


class Recogniser:
    """PocketSphinx constrained to a grammar."""

    def __init__(self) -> None:
        from pocketsphinx import Config, Decoder

        path = _model_path()
        self._decoder = Decoder(
            Config(hmm=str(path / "en-us"), dict=str(path / "cmudict-en-us.dict"), lm=None, loglevel="FATAL")
        )
        self._count = 0

    def use(self, grammar: str) -> None:
        """Switches to a grammar (JSGF text)."""
        if self._count:
            self._decoder.remove_search(f"g{self._count}") if hasattr(
                self._decoder, "remove_search"
            ) else None
        self._count += 1
        self._decoder.add_jsgf_string(f"g{self._count}", grammar)
        self._decoder.activate_search(f"g{self._count}")

    def words(self, waveform: np.ndarray, rate_hz: int) -> list[str]:
        """The recognised words, without fillers and pronunciation marks."""
        audio = soxr.resample(np.asarray(waveform, dtype=np.float32), rate_hz, RECOGNISER_RATE_HZ)
        silence = np.zeros(RECOGNISER_RATE_HZ // 5, dtype=np.float32)
        audio = np.concatenate([silence, audio, silence])
        self._decoder.start_utt()
        self._decoder.process_raw((np.clip(audio, -1, 1) * 32767).astype(np.int16).tobytes(), False, True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        text = hypothesis.hypstr if hypothesis else ""
        return [re.sub(r"\(\d+\)$", "", word) for word in text.split() if not word.startswith(("<", "["))]

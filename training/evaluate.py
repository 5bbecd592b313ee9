"""Scores any source of speech by recognition with closed grammars: words right, runaways, seconds."""

import argparse
import io
import json
import random
import re
import time
import urllib.request
import wave
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soxr

from training.texts import (
    SUS_ADJECTIVES,
    SUS_ADVERBS,
    SUS_NOUNS,
    SUS_VERBS,
    as_sentence,
    held_out_open,
    held_out_sus,
    read_bigrams,
)

RECOGNISER_RATE_HZ = 16_000
Speaker = Callable[[list[str]], list[tuple[np.ndarray, int, bool]]]


@dataclass(frozen=True)
class Score:
    """Result of one test: word error rates and how the utterances ended."""

    test: str
    sentences: int
    words_right_percent: float
    word_errors: int
    words: int
    runaways: int
    seconds: float


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


def score(test: str, speak: Speaker, sentences: list[list[str]], recogniser: Recogniser) -> Score:
    """Speaks and recognises the sentences of one test ("closed" or "open")."""
    choices = ForcedChoice() if test == "open" else None
    if choices is None:
        recogniser.use(closed_grammar())
    errors = runaways = 0
    seconds = 0.0
    for words, (waveform, rate_hz, stopped) in zip(
        sentences, speak([as_sentence(words) for words in sentences]), strict=True
    ):
        if choices is not None:
            recogniser.use(choices.grammar(words))
        heard = recogniser.words(waveform, rate_hz)
        errors += word_errors(words, heard)
        runaways += not stopped
        seconds += len(waveform) / rate_hz
    count = sum(map(len, sentences))
    return Score(
        test, len(sentences), round(100 * (1 - errors / count), 2), errors, count, runaways, round(seconds, 1)
    )


def flite_speaker(voice: str) -> Speaker:
    """The training source itself: what a perfect model would say."""
    from training.data import to_codec_rate
    from training.synthesis import Flite

    flite = Flite(voice)
    return lambda texts: [(to_codec_rate(flite.speak(text).samples).numpy(), 24_000, True) for text in texts]


def http_speaker(base_url: str, options: dict[str, object]) -> Speaker:
    """Any server with an OpenAI-compatible endpoint; over 3 s + 0.16 s a letter also counts as a runaway."""

    def one(text: str) -> tuple[np.ndarray, int, bool]:
        body = json.dumps({"input": text, "response_format": "wav", **options}).encode()
        request = urllib.request.Request(
            f"{base_url.rstrip('/')}/v1/audio/speech", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as response:
            reason = response.headers.get("X-Finish-Reason", "stop")
            data = response.read()
        with wave.open(io.BytesIO(data)) as file:
            rate_hz = file.getframerate()
            samples = (
                np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768
            )
        runaway = reason in ("length", "runaway") or len(samples) / rate_hz > 0.16 * len(text) + 3
        return samples, rate_hz, not runaway

    return lambda texts: [one(text) for text in texts]


def state_speaker(work_dir: Path, kind: str, temperature: float) -> Speaker:
    """The training state: "model" speaks with the language model, "codec" decodes the source's codes."""
    import torch

    from training.generate import decode_codes, speak
    from training.states import load_states

    model, decoder, quantizer = load_states(work_dir)
    if kind == "model":
        return lambda texts: [
            (audio, 24_000, stopped)
            for audio, stopped in speak(model, decoder, quantizer, texts, temperature=temperature)
        ]
    from training.features import frame_features

    source = flite_speaker("slt")

    def resynthesise(texts: list[str]) -> list[tuple[np.ndarray, int, bool]]:
        out = []
        for audio, _, _ in source(texts):
            codes = quantizer.encode(quantizer.latents(*frame_features(torch.from_numpy(audio))))
            out.append((decode_codes(decoder, quantizer, codes.numpy()), 24_000, True))
        return out

    return resynthesise


def choose_speaker(arguments: argparse.Namespace) -> Speaker:
    """The speaker that the command line names."""
    if arguments.url:
        options = {} if arguments.temperature is None else {"temperature": arguments.temperature}
        return http_speaker(arguments.url, options)
    if arguments.source == "flite":
        return flite_speaker("slt")
    return state_speaker(arguments.work_dir, arguments.source, arguments.temperature or 0.3)


def main() -> None:
    """Command line: prints a table for people and one JSON line last."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--url", help="score a running server, for example http://127.0.0.1:8000")
    parser.add_argument("--source", choices=("model", "codec", "flite"), default="model")
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=None, help="default: the server's or 0.3")
    parser.add_argument("--work-dir", type=Path, default=Path(".cache/training"))
    parser.add_argument("--seed", type=int, default=0, help="0 is the held-out set; others are for tuning")
    arguments = parser.parse_args()
    speaker, recogniser = choose_speaker(arguments), Recogniser()
    bigrams = read_bigrams(arguments.work_dir / "en-us.arpa")
    tests = {
        "closed": held_out_sus(arguments.sentences, 9001 + 10 * arguments.seed),
        "open": held_out_open(arguments.sentences, bigrams, 9002 + 10 * arguments.seed),
    }
    started = time.monotonic()
    scores = [score(test, speaker, sentences, recogniser) for test, sentences in tests.items()]
    print(f"{'test':8} {'sentences':>9} {'words':>6} {'right %':>8} {'runaways':>9} {'audio s':>8}")
    for result in scores:
        print(
            f"{result.test:8} {result.sentences:9} {result.words:6} {result.words_right_percent:8.2f} "
            f"{result.runaways:9} {result.seconds:8.1f}"
        )
    print(json.dumps({"scores": [asdict(s) for s in scores], "wall_s": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()

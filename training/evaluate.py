"""Scores any source of speech by recognition with closed grammars: words right, runaways, seconds."""

import argparse
import io
import json
import time
import urllib.request
import wave
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from training.recognition import ForcedChoice, Recogniser, closed_grammar, word_errors
from training.texts import (
    HELD_OUT,
    as_sentence,
    dictionary_words,
    held_out_everyday,
    held_out_open,
    held_out_sus,
    read_bigrams,
)

Bigrams = dict[str, tuple[list[str], list[float]]]
Item = tuple[str, list[str]]
# The source takes about 0.066 s a letter; half of that is an utterance that stopped early.
SHORTEST_S_PER_LETTER = 0.033
# Requests at a server at the same time.
_CALLERS = 8
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
    early_stops: int
    seconds: float


def make_tests(
    count: int, bigrams: dict[str, tuple[list[str], list[float]]], seed: int
) -> dict[str, list[Item]]:
    """Texts with their words: closed grammar, open and everyday forced choice, three sentences at once."""
    from training.synthesis import Flite

    source, known = Flite("slt"), set(dictionary_words())
    spoken = [(text, source.words(text)) for text in held_out_everyday(count, 9006 + 10 * seed)]
    closed = held_out_sus(count, 9001 + 10 * seed)
    single = held_out_open(count, bigrams, 9002 + 10 * seed)
    parts = held_out_open(3 * (count // 4), bigrams, 9004 + 10 * seed)
    triples = [parts[index : index + 3] for index in range(0, len(parts), 3)]
    return {
        "closed": [(as_sentence(words), words) for words in closed],
        "open": [(as_sentence(words), words) for words in single],
        "everyday": [(text, words) for text, words in spoken if known.issuperset(words)],
        "long": [(" ".join(map(as_sentence, three)), list(chain.from_iterable(three))) for three in triples],
    }


def score(test: str, speak: Speaker, items: list[Item], recogniser: Recogniser) -> Score:
    """Speaks and recognises the texts of one test."""
    choices = None if test == "closed" else ForcedChoice()
    if choices is None:
        recogniser.use(closed_grammar())
    errors = runaways = early = 0
    seconds = 0.0
    sentences = [words for _, words in items]
    spoken = speak([text for text, _ in items])
    for (text, words), (waveform, rate_hz, stopped) in zip(items, spoken, strict=True):
        if choices is not None:
            recogniser.use(choices.grammar(words))
        heard = recogniser.words(waveform, rate_hz)
        errors += word_errors(words, heard)
        runaways += not stopped
        early += len(waveform) / rate_hz < SHORTEST_S_PER_LETTER * len(text)
        seconds += len(waveform) / rate_hz
    count = sum(map(len, sentences))
    return Score(
        test, len(sentences), round(100 * (1 - errors / count), 2), errors, count, runaways, early,
        round(seconds, 1),
    )  # fmt: skip


def flite_speaker(voice: str) -> Speaker:
    """The training source itself: what a perfect model would say."""
    from training.data import Studio, to_codec_rate
    from training.scripts import Part
    from training.speakers import NAMED

    studio, speaker = Studio(), NAMED[voice]
    return lambda texts: [
        (to_codec_rate(studio.speak(Part(text), speaker).samples).numpy(), 24_000, True) for text in texts
    ]


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

    def many(texts: list[str]) -> list[tuple[np.ndarray, int, bool]]:
        with ThreadPoolExecutor(_CALLERS) as pool:
            return list(pool.map(one, texts))

    return many


def state_speaker(work_dir: Path, kind: str, temperature: float | None) -> Speaker:
    """The training state: "model" speaks with the language model, "codec" decodes the source's codes."""
    import torch

    from training.generate import TEMPERATURE, decode_codes, speak
    from training.states import load_states

    model, decoder, quantizer = load_states(work_dir)
    if kind == "model":
        chosen = TEMPERATURE if temperature is None else temperature
        return lambda texts: [
            (audio, 24_000, stopped)
            for audio, stopped in speak(model, decoder, quantizer, texts, temperature=chosen)
        ]
    from training.features import frame_features
    from training.quantizer import NO_OFFSET

    source = flite_speaker("slt")

    def resynthesise(texts: list[str]) -> list[tuple[np.ndarray, int, bool]]:
        out = []
        for audio, _, _ in source(texts):
            features = frame_features(torch.from_numpy(audio))
            codes = quantizer.encode(quantizer.latents(*features, NO_OFFSET))
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
    return state_speaker(arguments.work_dir, arguments.source, arguments.temperature)


def main() -> None:
    """Command line: prints a table for people and one JSON line last."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--url", help="score a running server, for example http://127.0.0.1:8000")
    parser.add_argument("--source", choices=("model", "codec", "flite"), default="model")
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=None, help="default: the checkpoint's")
    parser.add_argument("--work-dir", type=Path, default=Path(".cache/training"))
    parser.add_argument("--seed", type=int, default=0, help="0 is the held-out set; others are for tuning")
    arguments = parser.parse_args()
    if arguments.seed == 0 and arguments.sentences > HELD_OUT:
        parser.error(f"only {HELD_OUT} sentences of each test are held out: choose another --seed for more")
    speaker, recogniser = choose_speaker(arguments), Recogniser()
    bigrams = read_bigrams(arguments.work_dir / "en-us.arpa")
    tests = make_tests(arguments.sentences, bigrams, arguments.seed)
    started = time.monotonic()
    scores = [score(test, speaker, items, recogniser) for test, items in tests.items()]
    print(
        f"{'test':8} {'sentences':>9} {'words':>6} {'right %':>8} {'runaways':>9} {'early':>6} {'audio s':>8}"
    )
    for result in scores:
        print(
            f"{result.test:8} {result.sentences:9} {result.words:6} {result.words_right_percent:8.2f} "
            f"{result.runaways:9} {result.early_stops:6} {result.seconds:8.1f}"
        )
    print(json.dumps({"scores": [asdict(s) for s in scores], "wall_s": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()

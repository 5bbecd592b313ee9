"""Checks languages without a recogniser: speech should be nearer to its own words than to a changed word.

For every word of a sentence the source also says the sentence with another word in its place. The model's
speech, aligned by dynamic time warping, should be nearer to the true sentence. Chance is 50 %; the ceiling is
the source itself, speaking a tenth slower.
"""

import argparse
import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch

from stentor import TTS
from training.data import Studio, to_codec_rate
from training.espeak import LANGUAGES, LanguageSource
from training.features import log_mel_patches, pad_to_frames
from training.scripts import Part


def _view(waveform: torch.Tensor) -> np.ndarray:
    """Log-mel patches with each band's mean taken away, so that a voice's colour does not count."""
    mel = log_mel_patches(waveform).numpy()
    return mel - mel.mean(0)


def warped_distance(left: np.ndarray, right: np.ndarray) -> float:
    """Mean distance of frames along the best alignment (dynamic time warping with equal steps)."""
    cost = np.linalg.norm(left[:, None] - right[None], axis=2)
    total = np.full((len(left) + 1, len(right) + 1), np.inf)
    total[0, 0] = 0
    for i in range(1, len(left) + 1):
        for j in range(1, len(right) + 1):
            total[i, j] = cost[i - 1, j - 1] + min(total[i - 1, j], total[i, j - 1], total[i - 1, j - 1])
    return float(total[-1, -1]) / (len(left) + len(right))


def changed_sentences(language: str, count: int, seed: int = 4242) -> list[tuple[str, list[str]]]:
    """Sentences of three to six words, each with one changed version for every word."""
    source, rng = LanguageSource(language, seed, words=1200), random.Random(seed)
    out = []
    while len(out) < count:
        words = source.next().rstrip(".?!").replace(",", "").split()
        if not 3 <= len(words) <= 6:
            continue
        others = source.next().rstrip(".?!").replace(",", "").lower().split()
        changed = [" ".join([*words[:i], rng.choice(others), *words[i + 1 :]]) for i in range(len(words))]
        sentence = " ".join(words)
        out.append((sentence + ".", [text + "." for text in changed if text != sentence]))
    return out


def score_language(tts: TTS, studio: Studio, language: str, count: int) -> dict[str, object]:
    """Percentage of words nearer to the truth, the source's own, and the median ratio of durations."""
    speaker, tests = LANGUAGES[language], changed_sentences(language, count)
    slower = replace(speaker, rate=0.9)

    def said(text: str, who: object = speaker) -> torch.Tensor:
        return to_codec_rate(studio.speak(Part(text), who).samples)

    with ThreadPoolExecutor(8) as pool:
        spoken = list(pool.map(lambda numbered: tts.speak(numbered[1][0], seed=numbered[0]).waveform,
                               enumerate(tests)))  # fmt: skip
    right, ceiling, ratios = [], [], []
    for (text, changed), waveform in zip(tests, spoken, strict=True):
        truth, model = said(text), pad_to_frames(waveform)
        ratios.append(len(model) / len(truth))
        views = [_view(model), _view(said(text, slower))]
        own = [warped_distance(view, _view(truth)) for view in views]
        for other in changed:
            view = _view(said(other))
            right.append(own[0] < warped_distance(views[0], view))
            ceiling.append(own[1] < warped_distance(views[1], view))
    return {
        "language": language,
        "words": len(right),
        "right_percent": round(100 * float(np.mean(right)), 1),
        "source_percent": round(100 * float(np.mean(ceiling)), 1),
        "duration_ratio": round(float(np.median(ratios)), 2),
    }


def main() -> None:
    """Command line: one line for each language, and one JSON line last."""
    parser = argparse.ArgumentParser(prog="python -m training.languages", description=__doc__)
    parser.add_argument("--model", default="", help="checkpoint folder; default: the built-in voice")
    parser.add_argument("--sentences", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    studio, results = Studio(), []
    with TTS(arguments.model) as tts:
        for language in LANGUAGES:
            results.append(score_language(tts, studio, language, arguments.sentences))
            print(results[-1], flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()

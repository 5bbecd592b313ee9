"""Measures what tags, but those of sounds, do to the voice: pace, pitch, range, level, voicing, silence."""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from stentor import TTS
from training.features import HOP, SAMPLE_RATE_HZ, pad_to_frames, pitch_track
from training.tags import EMOTIONS, PAUSES, PROSODY, STYLES, written
from training.texts import as_sentence, held_out_sus

_QUIET_DB = -38.0


@dataclass(frozen=True)
class Sound:
    """Measures of one utterance; `pause_ms` is its longest silence between words."""

    speech_s: float
    pitch_hz: float
    spread_semitones: float
    level_db: float
    voiced_percent: float
    pause_ms: float


def measure(waveform: np.ndarray) -> Sound:
    """Measures a waveform at 24 kHz, silence at both ends left out."""
    samples = pad_to_frames(waveform)
    power = samples.reshape(-1, HOP).square().mean(1).numpy()
    level = 10 * np.log10(power + 1e-10)
    loud = np.flatnonzero(level > level.max() + _QUIET_DB)
    first, last = int(loud[0]), int(loud[-1]) + 1
    pitch_hz = pitch_track(samples).numpy()[first:last]
    active = level[first:last] > level.max() + _QUIET_DB
    voiced = pitch_hz > 0
    height = 12 * np.log2(pitch_hz[voiced]) if voiced.any() else np.zeros(1)
    gaps = np.diff(np.flatnonzero(np.concatenate([[True], active, [True]])))
    return Sound(
        speech_s=(last - first) * HOP / SAMPLE_RATE_HZ,
        pitch_hz=float(2 ** (np.median(height) / 12)),
        spread_semitones=float(np.std(height)),
        level_db=float(10 * np.log10(power[first:last][active].mean())),
        voiced_percent=100 * float((voiced & active).sum() / active.sum()),
        pause_ms=float(gaps.max() - 1) * 1000 * HOP / SAMPLE_RATE_HZ,
    )


def median(sounds: list[Sound]) -> dict[str, float]:
    """Median of each measure."""
    return {name: float(np.median([getattr(s, name) for s in sounds])) for name in Sound.__annotations__}


def effects(tts: TTS, count: int) -> list[dict[str, object]]:
    """For each tag, its measures relative to the same sentences without it; pauses in milliseconds."""
    sentences = held_out_sus(count, 9005)
    plain = [as_sentence(words) for words in sentences]

    def sounds(texts: list[str]) -> dict[str, float]:
        def one(numbered: tuple[int, str]) -> Sound:
            return measure(tts.speak(numbered[1], seed=numbered[0]).waveform)

        with ThreadPoolExecutor(8) as pool:
            return median(list(pool.map(one, enumerate(texts))))

    base, rows = sounds(plain), []
    for tag in (*PROSODY, *STYLES, *EMOTIONS, *PAUSES):
        mark = written(tag)
        if tag in PAUSES:
            halves = [(" ".join(words[:4]), " ".join(words[4:])) for words in sentences]
            texts = [f"{a[0].upper()}{a[1:]} {mark} {b}." for a, b in halves]
        else:
            texts = [mark + text for text in plain]
        got = sounds(texts)
        rows.append(
            {
                "tag": tag,
                "speed": round(base["speech_s"] / got["speech_s"], 3),
                "semitones": round(12 * float(np.log2(got["pitch_hz"] / base["pitch_hz"])), 2),
                "range": round(got["spread_semitones"] / base["spread_semitones"], 2),
                "level_db": round(got["level_db"] - base["level_db"], 1),
                "voiced_percent": round(got["voiced_percent"], 1),
                "pause_ms": round(got["pause_ms"]),
            }
        )
        print(
            "".join(
                f"{value!s:>28}" if i == 0 else f"{value!s:>15}" for i, value in enumerate(rows[-1].values())
            )
        )
    return rows


def main() -> None:
    """Command line: a table, and one JSON line last."""
    parser = argparse.ArgumentParser(prog="python -m training.tag_effects", description=__doc__)
    parser.add_argument("--model", default="", help="checkpoint folder; default: the built-in voice")
    parser.add_argument("--sentences", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with TTS(arguments.model) as tts:
        print(json.dumps(effects(tts, arguments.sentences)))


if __name__ == "__main__":
    main()

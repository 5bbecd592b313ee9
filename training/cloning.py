"""Scores cloning: has speech after a reference the reference's voice, and are its words right."""

import argparse
import io
import json
import wave
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from stentor import TTS
from training.data import SHORTEST_FRAMES, Studio, to_codec_rate
from training.features import (
    FRAME,
    HOPS_PER_FRAME,
    MEL_BANDS,
    SAMPLE_RATE_HZ,
    frame_features,
    pad_to_frames,
)
from training.recognition import Recogniser, closed_grammar, word_errors
from training.scripts import Part
from training.speakers import NAMED, STRANGERS, Speaker
from training.texts import as_sentence, held_out_sus

_PITCH_WEIGHT = 6.0
_THREADS = 8


def fingerprint(waveform: np.ndarray) -> np.ndarray:
    """Mean log-mel spectrum of the voiced frames, less its level, and mean log-pitch."""
    mel, pitch_hz, _ = frame_features(pad_to_frames(waveform))
    voiced = (pitch_hz > 0).all(1)
    if not bool(voiced.any()):
        return np.zeros(MEL_BANDS + 1)
    spectrum = mel[voiced].reshape(-1, HOPS_PER_FRAME, MEL_BANDS).mean((0, 1))
    height = _PITCH_WEIGHT * pitch_hz[voiced].log().mean()
    return torch.cat([spectrum - spectrum.mean(), height[None]]).numpy()


class VoiceNamer:
    """Names the voice of a waveform: the nearest mean fingerprint of some recordings of each voice."""

    def __init__(self, recordings: dict[str, list[np.ndarray]]) -> None:
        self._centres = {v: np.mean([fingerprint(w) for w in waves], 0) for v, waves in recordings.items()}

    def share(self, waveforms: list[np.ndarray], voice: str) -> float:
        """Percentage of the waveforms that are taken for `voice`."""
        return 100 * float(np.mean([self.name(waveform) == voice for waveform in waveforms]))

    def name(self, waveform: np.ndarray) -> str:
        """The voice that it is taken for."""
        seen = fingerprint(waveform)
        return min(self._centres, key=lambda voice: float(np.linalg.norm(self._centres[voice] - seen)))


def wav_bytes(waveform: np.ndarray) -> bytes:
    """A 16 bit WAV file of float samples at 24 kHz."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE_HZ)
        out.writeframes((np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def recordings(studio: Studio, speaker: Speaker, count: int, seed: int) -> list[tuple[np.ndarray, str]]:
    """Waveforms of 2 to 5 s with their texts; none of them was trained on."""
    texts = [as_sentence(words) for words in held_out_sus(2 * count, seed)]
    out = []
    for text in texts:
        waveform = to_codec_rate(studio.speak(Part(text), speaker).samples).numpy()
        if 2 * SAMPLE_RATE_HZ <= len(waveform) <= 5 * SAMPLE_RATE_HZ and len(out) < count:
            out.append((waveform, text))
    assert all(len(waveform) >= SHORTEST_FRAMES * FRAME for waveform, _ in out)
    return out


def clone_all(tts: TTS, texts: list[str], references: list[tuple[np.ndarray, str]]) -> list[np.ndarray]:
    """Each text in the voice of its reference; every other one with the reference's transcript."""

    def one(index: int) -> np.ndarray:
        waveform, text = references[index]
        spoken = {"reference_text": text} if index % 2 else {}
        return tts.speak(texts[index], reference=wav_bytes(waveform), seed=index, **spoken).waveform

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(one, range(len(texts))))


def said_words(text: str) -> list[str]:
    """The words of a sentence of the closed grammar, as the recogniser gives them."""
    return text.rstrip(".").lower().split()


def words_right(recogniser: Recogniser, waveforms: list[np.ndarray], said: list[list[str]]) -> float:
    """Percentage of the words that are understood; the recogniser has its grammar already."""
    heard = [recogniser.words(waveform, SAMPLE_RATE_HZ) for waveform in waveforms]
    errors = sum(word_errors(*pair) for pair in zip(said, heard, strict=True))
    return 100 * (1 - errors / sum(map(len, said)))


def told_apart() -> dict[str, Speaker]:
    """Seen voices and strangers; two of espeak-ng's are too like others of its."""
    return {name: speaker for name, speaker in (NAMED | STRANGERS).items() if name not in ("ef4", "em7")}


def namer_of(studio: Studio, speakers: dict[str, Speaker]) -> VoiceNamer:
    """Tells these voices apart, by recordings that nothing is scored on."""
    return VoiceNamer(
        {name: [w for w, _ in recordings(studio, speaker, 8, 9101)] for name, speaker in speakers.items()}
    )


def score_cloning(tts: TTS, voices: list[str], count: int) -> list[dict[str, object]]:
    """For each voice in %: how often source and clone are taken for it, and words right in each."""
    studio, recogniser = Studio(), Recogniser()
    recogniser.use(closed_grammar())
    speakers = told_apart()
    namer = namer_of(studio, speakers)
    sentences = held_out_sus(count, 9003)
    texts = [as_sentence(words) for words in sentences]
    results: list[dict[str, object]] = []
    for name in voices:
        references = recordings(studio, speakers[name], count, 9102)
        clones = clone_all(tts, texts[: len(references)], references)
        sources, said = [wave_ for wave_, _ in references], [said_words(text) for _, text in references]
        row: dict[str, object] = {"voice": name, "seen": name in NAMED}
        row["source_named"] = namer.share(sources, name)
        row["source_words"] = words_right(recogniser, sources, said)
        row["clone_named"] = namer.share(clones, name)
        row["clone_words"] = words_right(recogniser, clones, sentences[: len(clones)])
        print_row(row)
        results.append(row)
    return results


def add_voices(parser: argparse.ArgumentParser) -> None:
    """`--voices`, a list of names that can be told apart."""
    names = list(told_apart())

    def known(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(names):
            raise argparse.ArgumentTypeError(f"no such voices: {unknown}; there are {', '.join(names)}")
        return text.split(",")

    parser.add_argument("--voices", type=known, default=names, help="only these, separated by commas")


def print_row(row: dict[str, object]) -> None:
    """One line of a table."""
    cells = (f"{value:14.1f}" if isinstance(value, float) else f"{value!s:>14}" for value in row.values())
    print("".join(cells), flush=True)


def print_means(results: list[dict[str, object]]) -> None:
    """Columns, means of seen voices and of strangers, and one JSON line last."""
    print(f"columns: {', '.join(results[0])}")
    for seen in (True, False):
        rows = [row for row in results if row["seen"] == seen]
        if not rows:
            continue
        columns = [column for column in results[0] if column not in ("voice", "seen")]
        means = {column: round(float(np.mean([row[column] for row in rows])), 1) for column in columns}
        print(f"{'seen' if seen else 'strangers'} ({len(rows)} voices): {means}")
    print(json.dumps(results))


def main() -> None:
    """Command line: a table by voice, means of seen voices and strangers, and one JSON line last."""
    parser = argparse.ArgumentParser(prog="python -m training.cloning", description=__doc__)
    parser.add_argument("--model", default="", help="checkpoint folder; default: the built-in voice")
    parser.add_argument("--references", type=int, default=8, help="references and sentences for each voice")
    add_voices(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with TTS(arguments.model) as tts:
        print_means(score_cloning(tts, arguments.voices, arguments.references))


if __name__ == "__main__":
    main()

"""Scores cloning: does speech after a reference have the reference's voice, and are its words right."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from training.data import read_shard, shard_paths, to_codec_rate
from training.features import HOPS_PER_FRAME, MEL_BANDS, frame_features, pad_to_frames
from training.generate import decode_codes, speak
from training.recognition import Recogniser, closed_grammar, word_errors
from training.references import LONGEST_FRAMES, SHORTEST_FRAMES, encode_waveform, load_encoder
from training.states import load_states
from training.synthesis import VOICES
from training.texts import as_sentence, held_out_sus

_SOURCE_FRAME = 640
_PITCH_WEIGHT = 6.0


def fingerprint(waveform: np.ndarray) -> np.ndarray:
    """Mean log-mel spectrum of the voiced frames, less its level, and mean log-pitch."""
    mel, pitch_hz, _ = frame_features(pad_to_frames(torch.from_numpy(np.ascontiguousarray(waveform))))
    voiced = (pitch_hz > 0).all(1)
    if not bool(voiced.any()):
        return np.zeros(MEL_BANDS + 1)
    spectrum = mel[voiced].reshape(-1, HOPS_PER_FRAME, MEL_BANDS).mean((0, 1))
    height = _PITCH_WEIGHT * pitch_hz[voiced].log().mean()
    return torch.cat([spectrum - spectrum.mean(), height[None]]).numpy()


def held_out_references(work_dir: Path, voice: str, count: int) -> list[tuple[np.ndarray, str]]:
    """Waveforms and texts of the voice's first shard, which no training step reads."""
    shard = read_shard(shard_paths(work_dir, voice)[0])
    out = []
    for index, text in enumerate(shard.texts):
        first, last = shard.offsets[index], shard.offsets[index + 1]
        if SHORTEST_FRAMES <= last - first <= LONGEST_FRAMES and len(out) < count:
            samples = shard.samples[first * _SOURCE_FRAME : last * _SOURCE_FRAME]
            out.append((to_codec_rate(samples).numpy(), text))
    return out


class VoiceNamer:
    """Names the voice of a waveform: the nearest mean fingerprint of some recordings of each voice."""

    def __init__(self, recordings: dict[str, list[np.ndarray]]) -> None:
        self._centres = {v: np.mean([fingerprint(w) for w in waves], 0) for v, waves in recordings.items()}

    def share(self, waveforms: list[np.ndarray], voice: str) -> float:
        """Percentage of the waveforms that are taken for `voice`."""
        return 100 * float(np.mean([self._name(waveform) == voice for waveform in waveforms]))

    def _name(self, waveform: np.ndarray) -> str:
        seen = fingerprint(waveform)
        return min(self._centres, key=lambda voice: float(np.linalg.norm(self._centres[voice] - seen)))


def score_cloning(work_dir: Path, count: int) -> list[dict[str, object]]:
    """For each voice in %: how often source, codec, clone are taken for it, and the clone's words right."""
    model, decoder, quantizer = load_states(work_dir)
    encoder, recogniser = load_encoder(work_dir), Recogniser()
    recogniser.use(closed_grammar())
    references = {voice: held_out_references(work_dir, voice, 2 * count) for voice in VOICES}
    namer = VoiceNamer({voice: [wave for wave, _ in waves[count:]] for voice, waves in references.items()})
    sentences = held_out_sus(count, 9003)
    texts = [as_sentence(words) for words in sentences]
    results: list[dict[str, object]] = []
    for voice in VOICES:
        waves = [wave for wave, _ in references[voice][:count]]
        spoken = [text for _, text in references[voice][:count]]
        codes = [encode_waveform(encoder, quantizer, torch.from_numpy(wave)).numpy() for wave in waves]
        prompts = [(codes[index], spoken[index] if index % 2 else None) for index in range(count)]
        clones = [wave for wave, _ in speak(model, decoder, quantizer, texts, prompts)]
        heard = [recogniser.words(wave, 24_000) for wave in clones]
        errors = sum(word_errors(*pair) for pair in zip(sentences, heard, strict=True))
        decoded = [decode_codes(decoder, quantizer, part) for part in codes]
        results.append(
            {
                "voice": voice,
                "source_named": namer.share(waves, voice),
                "codec_named": namer.share(decoded, voice),
                "clone_named": namer.share(clones, voice),
                "clone_words_right": 100 * (1 - errors / sum(map(len, sentences))),
            }
        )
    return results


def main() -> None:
    """Command line: a table by voice and one JSON line last."""
    parser = argparse.ArgumentParser(prog="python -m training.cloning", description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path(".cache/training"))
    parser.add_argument("--references", type=int, default=8, help="references and sentences for each voice")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = score_cloning(arguments.work_dir, arguments.references)
    print("".join(f"{name:>18}" for name in results[0]))
    for row in results:
        print(
            "".join(
                f"{value:18.1f}" if isinstance(value, float) else f"{value:>18}" for value in row.values()
            )
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()

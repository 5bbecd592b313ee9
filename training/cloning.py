"""Scores cloning: does speech after a reference have the reference's voice, and are its words right."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from training.data import read_shard, shard_paths, to_codec_rate
from training.evaluate import Recogniser, closed_grammar, word_errors
from training.features import HOPS_PER_FRAME, MEL_BANDS, frame_features, pad_to_frames
from training.generate import decode_codes, speak
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


def main() -> None:
    """Command line: a table by voice and one JSON line last."""
    parser = argparse.ArgumentParser(prog="python -m training.cloning", description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path(".cache/training"))
    parser.add_argument("--references", type=int, default=8, help="references and sentences for each voice")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, decoder, quantizer = load_states(arguments.work_dir)
    encoder = load_encoder(arguments.work_dir)
    recogniser = Recogniser()
    recogniser.use(closed_grammar())
    count = arguments.references
    references = {voice: held_out_references(arguments.work_dir, voice, 2 * count) for voice in VOICES}
    centres = {
        voice: np.mean([fingerprint(wave) for wave, _ in waves[count:]], 0)
        for voice, waves in references.items()
    }

    def named(waveform: np.ndarray) -> str:
        print_of = fingerprint(waveform)
        return min(centres, key=lambda voice: float(np.linalg.norm(centres[voice] - print_of)))

    sentences = held_out_sus(count, 9003)
    texts = [as_sentence(words) for words in sentences]
    results = []
    print(
        f"{'voice':7} {'source named %':>15} {'codec named %':>14} {'clone named %':>14} {'clone words %':>14}"
    )
    for voice in VOICES:
        waves = references[voice][:count]
        codes = [encode_waveform(encoder, quantizer, torch.from_numpy(wave)).numpy() for wave, _ in waves]
        prompts = [
            (c, text if i % 2 else None) for i, (c, (_, text)) in enumerate(zip(codes, waves, strict=True))
        ]
        clones = [wave for wave, _ in speak(model, decoder, quantizer, texts, prompts)]
        errors = sum(
            word_errors(words, recogniser.words(wave, 24_000))
            for words, wave in zip(sentences, clones, strict=True)
        )
        row = {
            "voice": voice,
            "source_named": float(np.mean([named(wave) == voice for wave, _ in waves])),
            "codec_named": float(
                np.mean([named(decode_codes(decoder, quantizer, c)) == voice for c in codes])
            ),
            "clone_named": float(np.mean([named(wave) == voice for wave in clones])),
            "clone_words_right": 1 - errors / sum(map(len, sentences)),
        }
        results.append(row)
        shown = [100 * float(row[key]) for key in list(row)[1:]]
        print(f"{voice:7} {shown[0]:15.0f} {shown[1]:14.0f} {shown[2]:14.0f} {shown[3]:14.1f}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()

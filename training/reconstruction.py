"""Scores the codec: what encoding and decoding leave of every voice's words, pitch, voicing and timbre."""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from stentor.cli.codec import decode_codes, encode_reference
from stentor.config import Config
from stentor.tts import OFFLINE
from training.batches import speaker_offset
from training.cloning import (
    VoiceNamer,
    add_voices,
    namer_of,
    print_means,
    print_row,
    recordings,
    said_words,
    told_apart,
    wav_bytes,
    words_right,
)
from training.data import Studio
from training.features import frame_features, pad_to_frames, pitch_track
from training.quantizer import Offset, Quantizer
from training.recognition import Recogniser, closed_grammar
from training.speakers import NAMED


def coded(waveform: np.ndarray, config: Config) -> np.ndarray:
    """Encoded and decoded again by the codec of a checkpoint."""
    return decode_codes(encode_reference(wav_bytes(waveform), config), config).waveform


def pitch_kept(sources: list[np.ndarray], passed: list[np.ndarray]) -> tuple[float, float]:
    """Median distance of pitch in semitones where both are voiced; percentage of hops voiced alike."""
    tracks = [[pitch_track(pad_to_frames(w)) for w in pair] for pair in zip(sources, passed, strict=True)]
    before, after = (torch.cat([pair[i][: min(map(len, pair))] for pair in tracks]) for i in (0, 1))
    both = (before > 0) & (after > 0)
    distance = 12 * (after[both] / before[both]).log2().abs().median()
    return float(distance), 100 * float(((before > 0) == (after > 0)).float().mean())


def exact_codes(quantizer: Quantizer, offset: Offset, waveform: np.ndarray) -> np.ndarray:
    """The codes [T, 8] that an encoder without error would give of a speaker who differs by `offset`."""
    features = frame_features(pad_to_frames(waveform))
    return quantizer.encode(quantizer.latents(*features, offset)).numpy()


def score_voice(
    voice: str, namer: VoiceNamer, config: Config, work_dir: Path | None, count: int, seed: int
) -> dict[str, object]:
    """The row of one voice, in %, but pitch in semitones."""
    torch.set_num_threads(1)
    recogniser = Recogniser()
    recogniser.use(closed_grammar())
    spoken = recordings(Studio(), told_apart()[voice], count, seed)
    sources, said = [waveform for waveform, _ in spoken], [said_words(text) for _, text in spoken]
    passed = [coded(waveform, config) for waveform in sources]
    semitones, voicing = pitch_kept(sources, passed)
    row: dict[str, object] = {
        "voice": voice, "seen": voice in NAMED,
        "source_named": namer.share(sources, voice), "codec_named": namer.share(passed, voice),
        "semitones": semitones, "voicing": voicing,
        "source_words": words_right(recogniser, sources, said),
    }  # fmt: skip
    if work_dir is not None:
        quantizer, offset = Quantizer.load(work_dir / "quantizer.pt"), speaker_offset(work_dir, voice)
        exact = [decode_codes(exact_codes(quantizer, offset, w), config).waveform for w in sources]
        row["exact_words"] = words_right(recogniser, exact, said)
    return row | {"codec_words": words_right(recogniser, passed, said)}


def main() -> None:
    """Command line: a table by voice, means of seen voices and strangers, and one JSON line last."""
    parser = argparse.ArgumentParser(prog="python -m training.reconstruction", description=__doc__)
    parser.add_argument("--model", default="", help="checkpoint folder; default: the built-in voice")
    parser.add_argument("--sentences", type=int, default=60, help="sentences for each voice")
    parser.add_argument("--seed", type=int, default=9102, help="which sentences")
    add_voices(parser)
    parser.add_argument(
        "--work-dir", type=Path, help="folder of the training: also words of the source's exact codes"
    )
    parser.add_argument("--processes", type=int, default=1, help="voices scored at the same time")
    arguments = parser.parse_args()
    namer = namer_of(Studio(), told_apart())
    config = (
        replace(OFFLINE, model=replace(OFFLINE.model, model=arguments.model)) if arguments.model else OFFLINE
    )
    score = partial(
        score_voice, namer=namer, config=config, work_dir=arguments.work_dir, count=arguments.sentences,
        seed=arguments.seed,
    )  # fmt: skip
    results = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=spawn) as pool:
        for row in pool.map(score, arguments.voices):
            print_row(row)
            results.append(row)
    print_means(results)


if __name__ == "__main__":
    main()

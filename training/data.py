"""Knows the shards on disk: spoken texts with their samples, frame features and phoneme labels."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch

from training.features import FRAME, SAMPLE_RATE_HZ, frame_features, pad_to_frames
from training.synthesis import SAMPLE_RATE_HZ as SOURCE_RATE_HZ
from training.synthesis import VOICES, Flite, Utterance
from training.texts import TextSource, read_bigrams

PHONEMES = (
    "pau aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw "
    "v w y z zh"
).split()
UTTERANCES_PER_SHARD = 300
LONGEST_FRAMES = 320


@dataclass(frozen=True)
class Shard:
    """Some hundred utterances of one voice; `offsets[i]:offsets[i+1]` are the frames of utterance i."""

    texts: list[str]
    offsets: np.ndarray
    samples: np.ndarray
    mel: np.ndarray
    pitch_hz: np.ndarray
    phase: np.ndarray
    phonemes: np.ndarray


def to_codec_rate(samples: np.ndarray) -> torch.Tensor:
    """int16 samples at 16 kHz as float samples at 24 kHz, padded to whole frames."""
    waveform = soxr.resample(samples.astype(np.float32) / 32768.0, SOURCE_RATE_HZ, SAMPLE_RATE_HZ)
    return pad_to_frames(torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32)))


def phoneme_labels(utterance: Utterance, frames: int) -> np.ndarray:
    """The phoneme sounding at the middle of each 40 ms frame, as an index into PHONEMES."""
    ends = np.array([end for _, end in utterance.phonemes])
    names = [PHONEMES.index(name) if name in PHONEMES else 0 for name, _ in utterance.phonemes]
    middles = (np.arange(frames) + 0.5) * FRAME / SAMPLE_RATE_HZ
    return np.array(names, dtype=np.uint8)[np.searchsorted(ends, middles).clip(max=len(names) - 1)]


def make_shard(voice: Flite, source: TextSource, path: Path, count: int = UTTERANCES_PER_SHARD) -> None:
    """Speaks `count` texts and writes them with their features to `path` (.npz)."""
    texts, columns = [], []
    while len(texts) < count:
        utterance = voice.speak(source.next())
        waveform = to_codec_rate(utterance.samples)
        frames = len(waveform) // FRAME
        if not 10 <= frames <= LONGEST_FRAMES:
            continue
        mel, pitch_hz, phase = frame_features(waveform)
        texts.append(utterance.text)
        pcm = np.zeros(frames * FRAME * 2 // 3, dtype=np.int16)
        pcm[: len(utterance.samples)] = utterance.samples[: len(pcm)]
        columns.append(
            (frames, pcm, mel.half(), pitch_hz.half(), phase.half(), phoneme_labels(utterance, frames))
        )
    lengths, pcms, *rest = zip(*columns, strict=True)
    mels, pitches, phases, phonemes = (np.concatenate([np.asarray(part) for part in parts]) for parts in rest)
    temporary = path.with_suffix(".tmp.npz")
    np.savez(
        temporary, texts=np.array(texts), offsets=np.cumsum([0, *lengths]), samples=np.concatenate(pcms),
        mel=mels, pitch_hz=pitches, phase=phases, phonemes=phonemes,
    )  # fmt: skip
    os.replace(temporary, path)


def read_shard(path: Path) -> Shard:
    """Reads a shard written by `make_shard`."""
    with np.load(path) as data:
        fields = {name: data[name] for name in data.files}
    return Shard(**{**fields, "texts": fields["texts"].tolist()})


def shard_paths(work_dir: Path, voice: str) -> list[Path]:
    """The finished shards of a voice, in order."""
    return sorted((work_dir / "shards").glob(f"{voice}_[0-9][0-9][0-9][0-9].npz"))


def generate(work_dir: Path, plan: dict[str, int], part: int = 0, parts: int = 1) -> None:
    """Makes every planned shard that is not there yet; `part` of `parts` processes share the work."""
    (work_dir / "shards").mkdir(parents=True, exist_ok=True)
    bigrams = read_bigrams(work_dir / "en-us.arpa")
    voices: dict[str, Flite] = {}
    jobs = [(index, voice) for voice, count in plan.items() for index in range(count)]
    for number, (index, voice) in enumerate(sorted(jobs)):
        path = work_dir / "shards" / f"{voice}_{index:04d}.npz"
        if number % parts != part or path.exists():
            continue
        voices.setdefault(voice, Flite(voice))
        seed = 1_000_000 * (VOICES.index(voice) + 1) + index
        make_shard(voices[voice], TextSource(bigrams, seed), path)
        print(f"{path.name} done", flush=True)

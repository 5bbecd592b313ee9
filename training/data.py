"""Knows the shards on disk: who speaks what in each, with samples, frame features and phoneme labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch

from training.espeak import LANGUAGES, Espeak, LanguageSource
from training.features import FRAME, HOP, HOPS_PER_FRAME, SAMPLE_RATE_HZ, frame_features, pad_to_frames
from training.files import whole
from training.scripts import Part, Script, ScriptSource
from training.speakers import DEFAULT, NAMED, VARIANTS, Speaker, continuum
from training.synthesis import SAMPLE_RATE_HZ as SOURCE_RATE_HZ
from training.synthesis import Flite, Utterance
from training.texts import TextSource, read_bigrams

PHONEMES = (
    "pau aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw "
    "v w y z zh"
).split()
UNLABELLED = 255
SHORTEST_FRAMES, LONGEST_FRAMES = 10, 380
_DRAWN = continuum(120)
CONTINUUM = _DRAWN | VARIANTS
SPEAKERS: dict[str, Speaker] = {**NAMED, **_DRAWN, **LANGUAGES, **VARIANTS}
_SOURCE_FRAME = FRAME * SOURCE_RATE_HZ // SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Job:
    """One shard: whose, its number, how many utterances, and the shares of tagged, joined, everyday texts."""

    voice: str
    index: int
    count: int
    tagged: float
    joined: float
    whispered: float = 0.06
    everyday: float = 0.18

    @property
    def speaker(self) -> str:
        """Shards of the voice "slttags" are spoken by slt; all others by the voice's namesake."""
        return self.voice.removesuffix("tags")


def plan() -> list[Job]:
    """All shards, those first that every later step needs first."""
    jobs = [Job(DEFAULT, index, 300, 0.16, 0.24) for index in range(30)]
    jobs += [Job(DEFAULT, 30 + index, 300, 0.0, 0.1, everyday=0.9) for index in range(12)]
    jobs += [
        Job(DEFAULT, 42 + index, 300, 0.0, 0.1, everyday=0.1 if index % 4 else 0.9) for index in range(160)
    ]
    jobs += [Job(f"{DEFAULT}tags", index, 300, 1.0, 0.0, 0.12) for index in range(12)]
    for name, speaker in NAMED.items():
        if name != DEFAULT:
            flite = not speaker.base.startswith("espeak:")
            jobs += [Job(name, i, 150, 0.2 * flite, 0.12 * flite) for i in range(3 if flite else 1)]
    jobs += [Job(name, 0, 60, 0.15, 0.1) for name in _DRAWN]
    jobs += [Job(name, 0, 60, 0, 0) for name in VARIANTS]
    jobs += [Job(name, index, 300, 0, 0) for name in LANGUAGES for index in range(2)]
    urgency = {DEFAULT: 1.0, f"{DEFAULT}tags": 2.0, **dict.fromkeys(NAMED.keys() - {DEFAULT}, 6.0)}
    order = {name: 0.12 * number for number, name in enumerate(CONTINUUM)}
    order |= {name: 3.0 + 0.2 * number for number, name in enumerate(LANGUAGES)}
    return sorted(
        jobs, key=lambda job: (order.get(job.voice, 0) + job.index * urgency.get(job.voice, 6.0), job.voice)
    )


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

    def waveform(self, index: int) -> torch.Tensor:
        """Float samples of one utterance at 24 kHz."""
        first, last = self.offsets[index], self.offsets[index + 1]
        return to_codec_rate(self.samples[first * _SOURCE_FRAME : last * _SOURCE_FRAME])


class Studio:
    """All synthesisers, opened when first needed."""

    def __init__(self, espeak_data: Path | None = None) -> None:
        self._espeak_data = espeak_data
        self._flite: dict[str, Flite] = {}
        self._espeak: Espeak | None = None

    def speak(self, part: Part, speaker: Speaker) -> Utterance:
        """One part of a script."""
        if speaker.base.startswith("espeak:"):
            self._espeak = self._espeak or Espeak(self._espeak_data)
            return self._espeak.speak(part.text, speaker)
        if speaker.base not in self._flite:
            self._flite[speaker.base] = Flite(speaker.base)
        return self._flite[speaker.base].speak(part.text, speaker, part.delivery)

    def perform(self, script: Script, speaker: Speaker) -> tuple[Utterance, np.ndarray]:
        """The whole script, and a mask [samples] of what was whispered."""
        samples, phonemes, whispered = [], [], []
        now_s = 0.0
        for part in script.parts:
            spoken = self.speak(part, speaker)
            # Trimmed parts bring 0.24 s of silence of their own to a joint.
            gap = np.zeros(int(max(0.0, part.pause_s - 0.24) * SOURCE_RATE_HZ), dtype=np.int16)
            now_s += len(gap) / SOURCE_RATE_HZ
            samples += [gap, spoken.samples]
            whispered += [np.zeros(len(gap), bool), np.full(len(spoken.samples), part.delivery.whisper)]
            phonemes += [(name, end + now_s) for name, end in spoken.phonemes]
            now_s += len(spoken.samples) / SOURCE_RATE_HZ
        return Utterance(script.text, np.concatenate(samples), phonemes), np.concatenate(whispered)


def to_codec_rate(samples: np.ndarray) -> torch.Tensor:
    """int16 samples at 16 kHz as float samples at 24 kHz, padded to whole frames."""
    waveform = soxr.resample(samples.astype(np.float32) / 32768.0, SOURCE_RATE_HZ, SAMPLE_RATE_HZ)
    return pad_to_frames(waveform)


def phoneme_labels(utterance: Utterance, frames: int) -> np.ndarray:
    """The phoneme at the middle of each 40 ms frame, as an index into PHONEMES; UNLABELLED without times."""
    if not utterance.phonemes:
        return np.full(frames, UNLABELLED, dtype=np.uint8)
    ends = np.maximum.accumulate([end for _, end in utterance.phonemes])
    names = [PHONEMES.index(name) if name in PHONEMES else 0 for name, _ in utterance.phonemes]
    middles = (np.arange(frames) + 0.5) * FRAME / SAMPLE_RATE_HZ
    return np.array(names, dtype=np.uint8)[np.searchsorted(ends, middles).clip(max=len(names) - 1)]


def whispered_hops(whispered: np.ndarray, frames: int) -> np.ndarray:
    """Which hops of 10 ms [4 * frames] a mask of samples at 16 kHz says are whispered."""
    centres = (np.arange(frames * HOPS_PER_FRAME) * HOP + HOP // 2) * SOURCE_RATE_HZ // SAMPLE_RATE_HZ
    return whispered[centres.clip(max=len(whispered) - 1)]


def performed_features(utterance: Utterance, whispered: np.ndarray) -> tuple[torch.Tensor, ...] | None:
    """Frame features of a performance, unvoiced where it was whispered; None when it is too long or short."""
    waveform = to_codec_rate(utterance.samples)
    frames = len(waveform) // FRAME
    if not SHORTEST_FRAMES <= frames <= LONGEST_FRAMES:
        return None
    mel, pitch_hz, phase = frame_features(waveform)
    if whispered.any():
        mask = torch.from_numpy(whispered_hops(whispered, frames)).reshape(frames, -1)
        pitch_hz = pitch_hz.masked_fill(mask, 0.0)
        phase = phase.masked_fill(mask.any(1, keepdim=True), 0.0)
    return mel, pitch_hz, phase


def make_shard(studio: Studio, speaker: Speaker, scripts: ScriptSource, path: Path, count: int) -> None:
    """Performs `count` scripts and writes them with their features to `path` (.npz)."""
    texts, columns = [], []
    while len(texts) < count:
        utterance, whispered = studio.perform(scripts.next(), speaker)
        features = performed_features(utterance, whispered)
        if features is None:
            continue
        frames = len(features[0])
        texts.append(utterance.text)
        pcm = np.zeros(frames * _SOURCE_FRAME, dtype=np.int16)
        pcm[: len(utterance.samples)] = utterance.samples[: len(pcm)]
        columns.append((frames, pcm, *(part.half() for part in features), phoneme_labels(utterance, frames)))
    lengths, pcms, *rest = zip(*columns, strict=True)
    mels, pitches, phases, phonemes = (np.concatenate([np.asarray(part) for part in parts]) for parts in rest)
    offsets = np.cumsum([0, *lengths])
    write_shard(path, Shard(texts, offsets, np.concatenate(pcms), mels, pitches, phases, phonemes))


def write_shard(path: Path, shard: Shard) -> None:
    """Writes a shard whole or not at all."""
    with whole(path) as file:
        np.savez(file, **vars(shard))


def read_shard(path: Path) -> Shard:
    """Reads a shard written by `write_shard`."""
    with np.load(path) as data:
        fields = {name: data[name] for name in data.files}
    return Shard(**{**fields, "texts": fields["texts"].tolist()})


def shard_path(work_dir: Path, job: Job) -> Path:
    """Where a job's shard is, or will be."""
    return work_dir / "shards" / f"{job.voice}_{job.index:04d}.npz"


def speaker_of(path: Path) -> str:
    """The speaker of a shard."""
    return path.stem.split("_")[0].removesuffix("tags")


def shard_paths(work_dir: Path, voice: str) -> list[Path]:
    """The finished shards of a voice, in order."""
    return sorted((work_dir / "shards").glob(f"{voice}_[0-9][0-9][0-9][0-9].npz"))


def script_source(job: Job, bigrams: dict[str, tuple[list[str], list[float]]]) -> ScriptSource:
    """The job's own seeded stream of scripts."""
    seed = 1_000_000 * (1 + list(SPEAKERS).index(job.speaker)) + job.index + 500 * (job.voice != job.speaker)
    if job.voice in LANGUAGES:
        return ScriptSource(LanguageSource(job.voice, seed), seed, 0, 0)
    texts = TextSource(bigrams, seed, job.everyday)
    return ScriptSource(texts, seed, job.tagged, job.joined, job.whispered)


def generate(work_dir: Path, part: int = 0, parts: int = 1) -> None:
    """Makes every planned shard that is not there yet; `part` of `parts` processes share the work."""
    (work_dir / "shards").mkdir(parents=True, exist_ok=True)
    bigrams = read_bigrams(work_dir / "en-us.arpa")
    studio = Studio()
    for number, job in enumerate(plan()):
        path = shard_path(work_dir, job)
        if number % parts != part or path.exists():
            continue
        make_shard(studio, SPEAKERS[job.speaker], script_source(job, bigrams), path, job.count)
        print(f"{path.name} done", flush=True)

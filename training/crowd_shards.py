"""Makes shards of what the crowd says, so that the language model knows many speakers a little.

What a mean spectrum does not say of a speaker (where the formants of each vowel lie, how consonants sound)
goes with the speaker's code all the same, and with enough speakers the language model can learn how.
"""

import math
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from training.batches import speaker_means
from training.crowd import Role, read_casting, start_performing
from training.data import UNLABELLED, Job, Shard, shard_path, write_shard
from training.features import frame_features
from training.files import whole
from training.hearing import Means, difference, means
from training.speakers import DEFAULT

# Sentences of each speaker, and the number of their shard: the first ones are for what books are fitted to.
_SENTENCES, _NUMBER = 5, 1
_KINDS = ("crowd", "espeak")


@dataclass(frozen=True)
class Said:
    """A common sentence's number, its text, its features (mel, pitch, phase) and their means."""

    number: int
    text: str
    features: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    means: Means


def _common(work_dir: Path, role: Role) -> list[Said]:
    """The common sentences of a performance."""
    with np.load(work_dir / "crowd" / f"{role.name}.npz") as data:
        samples, offsets, numbers = data["samples"], data["offsets"], data["common"].tolist()
    mel, pitch_hz, phase = frame_features(torch.from_numpy(samples).float() / 32768)
    out = []
    for number, (a, b) in zip(numbers, pairwise(offsets), strict=True):
        if number >= 0:
            features = (mel[a:b], pitch_hz[a:b], phase[a:b])
            text = role.scripts[role.common.index(number)].text
            out.append(Said(number, text, features, means(*features[:2])))
    return out


def _shard(said: list[Said]) -> Shard:
    """What the language model learns of it: neither the sound nor phonemes."""
    offsets = np.cumsum([0, *(len(each.features[0]) for each in said)])
    mel, pitch_hz, phase = (
        torch.cat(parts).half().numpy() for parts in zip(*(each.features for each in said), strict=True)
    )
    texts, phonemes = [each.text for each in said], np.full(offsets[-1], UNLABELLED, np.uint8)
    return Shard(texts, offsets, np.zeros(0, np.int16), mel, pitch_hz, phase, phonemes)


def write_shards(work_dir: Path) -> None:
    """Lets the crowd say what is missing; writes a shard, and `means/`, for each speaker that has none."""
    for worker in start_performing(work_dir, os.cpu_count() or 1, math.inf):
        worker.wait()
    usual: dict[int, Means] = {}
    spectrum, height = speaker_means(work_dir, DEFAULT)
    for role in read_casting(work_dir)[0]:
        name = role.speaker.name
        path = shard_path(work_dir, Job(name, _NUMBER, 0, 0, 0))
        if name == DEFAULT and role.common:
            usual |= {each.number: each.means for each in _common(work_dir, role)}
        elif role.kind in _KINDS and not path.exists():
            said = _common(work_dir, role)[:_SENTENCES]
            own, others = [each.means for each in said], [usual[each.number] for each in said]
            further, semitones = difference(own, others)
            values = np.append(spectrum + further.numpy(), height + semitones * math.log(2) / 12)
            with whole(work_dir / "means" / f"{name}.npy") as file:
                np.save(file, values.astype(np.float32))
            write_shard(path, _shard(said))

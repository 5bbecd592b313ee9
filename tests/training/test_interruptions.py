"""Laws of runs that are interrupted, and of several that write into one work folder."""

import os
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from training import batches, crowd, texts
from training.data import UNLABELLED, Shard, write_shard
from training.files import whole
from training.quantizer import BOOKS, CODE_DIM, CODES, LATENT_DIM, Quantizer


def test_what_is_not_written_to_its_end_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"

    def write_half() -> None:
        with whole(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert not list(tmp_path.iterdir())
    with whole(path) as file:
        file.write(b"all")
        # Nobody who looks for arrays finds it yet.
        assert not list(tmp_path.glob("*.npz"))
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"all"]


def test_processes_may_make_the_same_codes_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shards").mkdir()
    path, frames = tmp_path / "shards" / "slt_0000.npz", 12
    mel = np.zeros((frames, 256), np.float16)
    pitch_hz = np.full((frames, 4), 120, np.float16)
    said = np.full(frames, UNLABELLED, np.uint8)
    write_shard(
        path, Shard(["Oh."], np.array([0, frames]), np.zeros(0, np.int16), mel, pitch_hz, mel[:, :2], said)
    )
    blank = Quantizer(
        torch.zeros(256), torch.zeros(256, CODE_DIM), torch.zeros(64, 24), torch.zeros(BOOKS, CODES, CODE_DIM)
    )
    latents = torch.zeros(frames, LATENT_DIM)
    monkeypatch.setattr(Quantizer, "latents", lambda *_: latents)
    save, processes = np.save, iter([4711])

    def save_while_another_does(file: object, codes: np.ndarray) -> None:
        save(file, codes)
        for process in processes:
            with monkeypatch.context() as other:
                other.setattr(os, "getpid", lambda number=process: number)
                batches.read_codes(path, blank)

    batches.speaker_means(tmp_path, "slt")
    monkeypatch.setattr(np, "save", save_while_another_does)
    assert batches.read_codes(path, blank).shape == (frames, BOOKS)
    assert [each.name for each in (tmp_path / "codes").iterdir()] == ["slt_0000.npy"]


def test_a_language_model_that_was_written_in_part_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As for whoever has no work folder yet.
    arpa = tmp_path / "work" / "en-us.arpa"
    written = iter(["", "\\2-grams:\n", "\\2-grams:\n-0.5 <s> the 0\n-1.0 the river 0\n"])

    def write(command: list[str], check: bool) -> None:
        content = next(written)
        Path(command[-1]).write_text(content)
        if content and "river" not in content:
            raise KeyboardInterrupt

    monkeypatch.setattr(texts.subprocess, "run", write)
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            texts.read_bigrams(arpa)
        assert not list(arpa.parent.iterdir())
    assert texts.read_bigrams(arpa) == {"<s>": (["the"], [10**-0.5]), "the": (["river"], [0.1])}


def test_the_language_models_probabilities_are_those_of_pocketsphinx(tmp_path: Path) -> None:
    path = tmp_path / "en-us.arpa"
    texts.subprocess.run([sys.executable, "-c", texts._ARPA_WRITER, str(path)], check=False)
    with path.open(encoding="utf-8") as lines:
        words = dict(reversed(line.split()[:2]) for line in list(islice(lines, 60))[10:])
    assert (words["a"], words["abandon"]) == ("-1.6510", "-5.1592")
    # It is large.
    path.unlink()


def test_variants_that_were_copied_in_part_are_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "read_casting", lambda _: ([], {}))
    interrupted = iter([True, False])

    def write_variants(folder: Path, _: object) -> None:
        folder.mkdir(exist_ok=True)
        if next(interrupted):
            raise KeyboardInterrupt
        (folder / "voices").touch()

    monkeypatch.setattr(crowd, "write_variants", write_variants)
    with pytest.raises(KeyboardInterrupt):
        crowd.prepare_stage(tmp_path)
    crowd.prepare_stage(tmp_path)
    assert (tmp_path / "espeak-ng-data" / "voices").exists()

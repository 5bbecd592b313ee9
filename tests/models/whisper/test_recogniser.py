"""Laws of Whisper: it hears what transformers' own way hears, alone as in company, and no loops."""

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from stentor.errors import CheckpointError, ConfigError, OverloadedError
from stentor.models.whisper.recogniser import Whisper
from stentor.request import Array
from tests.whisper import RATE_HZ, make_whisper

SAYS = {"Hello there.": 300, "guten Tag": 2500}
MODEL_RATE_HZ = 24_000


def tone(pitch_hz: float, rate_hz: int = MODEL_RATE_HZ, seconds: float = 2.0) -> Array:
    return (0.3 * np.sin(2 * np.pi * pitch_hz * np.arange(rate_hz * seconds) / rate_hz)).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    says = {text: [tone(pitch_hz, RATE_HZ)] for text, pitch_hz in SAYS.items()}
    return make_whisper(tmp_path_factory.mktemp("whisper"), says)


def copy(checkpoint: Path, folder: Path) -> Path:
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_it_writes_down_what_it_has_learnt_in_either_language(checkpoint: Path) -> None:
    whisper = Whisper(checkpoint, "cpu")
    assert {text: whisper.transcribe([tone(hz)], MODEL_RATE_HZ) for text, hz in SAYS.items()} == {
        text: [text] for text in SAYS
    }


def test_it_hears_what_transformers_hears(checkpoint: Path) -> None:
    processor = WhisperProcessor.from_pretrained(checkpoint)
    model = WhisperForConditionalGeneration.from_pretrained(checkpoint)
    whisper, texts = Whisper(checkpoint, "cpu"), set()
    for pitch_hz in (200, 300, 500, 800, 1200, 1800, 2500, 5000):
        sound = tone(pitch_hz, RATE_HZ)
        features = processor(sound, sampling_rate=RATE_HZ, return_tensors="pt").input_features
        ids = model.generate(features, task="transcribe", max_new_tokens=64)
        (expected,) = processor.batch_decode(ids, skip_special_tokens=True)
        assert whisper.transcribe([sound], RATE_HZ) == [" ".join(expected.split())]
        texts.add(expected)
    assert len(texts) >= 2


def test_a_batch_of_one_size_hears_each_as_alone(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Whisper, "max_batch", 4)
    whisper = Whisper(checkpoint, "cpu")
    assert whisper.transcribe([tone(hz) for hz in SAYS.values()], MODEL_RATE_HZ) == list(SAYS)
    sizes = []
    encoder = whisper._parts.model.model.encoder  # type: ignore[union-attr]
    encoder.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    assert whisper.transcribe([tone(300)], MODEL_RATE_HZ) == ["Hello there."]
    assert sizes == [4]


def test_on_a_cpu_recordings_are_heard_one_by_one(checkpoint: Path) -> None:
    assert Whisper(checkpoint, "cpu").max_batch == 1


def test_a_device_that_is_not_here_is_told_before_anything_is_heard(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="device"):
        _ = Whisper(checkpoint, "cuda:99").max_batch


def test_what_goes_on_to_the_limit_is_a_loop_and_no_transcript(tmp_path: Path) -> None:
    whisper = Whisper(make_whisper(tmp_path, {}, rounds=0), "cpu")
    assert whisper.transcribe([tone(300)], MODEL_RATE_HZ) == [""]


def test_a_checkpoint_of_one_language_is_not_asked_for_another(checkpoint: Path, tmp_path: Path) -> None:
    copy(checkpoint, tmp_path)
    path = tmp_path / "generation_config.json"
    given = json.loads(path.read_text())
    told = [[1, given["lang_to_id"]["<|de|>"]], [2, given["task_to_id"]["transcribe"]]]
    for name in ("lang_to_id", "task_to_id"):
        del given[name]
    path.write_text(json.dumps(given))
    change(path, is_multilingual=False, forced_decoder_ids=told)
    assert Whisper(tmp_path, "cpu").transcribe([tone(2500)], MODEL_RATE_HZ) == ["guten Tag"]


def test_it_is_silent_beside_its_own_lines(
    checkpoint: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        Whisper(checkpoint, "cpu").transcribe([tone(300)], MODEL_RATE_HZ)
    assert {record.name for record in caplog.records} == {Whisper.__module__}
    first, second = caplog.messages
    assert first == f"references without a transcript are heard by {checkpoint}"
    assert second.startswith(f"the recogniser {checkpoint} is loaded on cpu in ")
    assert capfd.readouterr() == ("", "")


def test_it_travels_before_it_is_loaded(checkpoint: Path) -> None:
    whisper = pickle.loads(pickle.dumps(Whisper(checkpoint, "cpu")))
    assert whisper.transcribe([tone(300)], MODEL_RATE_HZ) == ["Hello there."]


@pytest.mark.parametrize(
    "name",
    [
        *("preprocessor_config.json", "tokenizer.json", "generation_config.json", "config.json"),
        "model.safetensors",
    ],
)
def test_what_is_missing_or_damaged_is_told_before_anything_is_loaded(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    copy(checkpoint, tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=name):
        Whisper(tmp_path, "cpu")
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        Whisper(tmp_path, "cpu")


@pytest.mark.parametrize("problem", ["missing", "of another shape"])
def test_every_tensor_must_be_there_in_its_shape(checkpoint: Path, tmp_path: Path, problem: str) -> None:
    path = copy(checkpoint, tmp_path) / "model.safetensors"
    tensors = load_file(path)
    bias = tensors.pop("model.encoder.conv1.bias")
    if problem != "missing":
        tensors["model.encoder.conv1.bias"] = bias[:-1].clone()
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=f"1 tensor is {problem}: .*model.encoder.conv1.bias"):
        Whisper(tmp_path, "cpu").transcribe([tone(300)], MODEL_RATE_HZ)


def test_without_memory_it_is_tried_again_later(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    whisper = Whisper(checkpoint, "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(WhisperForConditionalGeneration, "generate", no_memory)
        with pytest.raises(OverloadedError, match="send its words with it"):
            whisper.transcribe([tone(300)], MODEL_RATE_HZ)
    assert whisper.transcribe([tone(300)], MODEL_RATE_HZ) == ["Hello there."]

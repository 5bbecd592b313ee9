"""Laws of the declared pipeline: described and checked before anything is loaded; then it speaks."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stentor.audio.formats import encode_file
from stentor.config import Config, ModelConfig, override
from stentor.errors import CheckpointError, TooLargeError
from stentor.models.higgs_audio_v3.baseline import PlainLoop
from stentor.models.higgs_audio_v3.spec import HiggsAudioV3
from stentor.models.registry import BUILT_IN, name_of, resolve
from stentor.request import Audio, Frames, Prompt, Reference, SamplingParams, SpeechRequest
from stentor.stages.inline import InlineStages
from tests.checkpoints import CONTROL_TAGS, make_checkpoint

MODEL = HiggsAudioV3()
CODES = np.arange(80).reshape(10, 8)
CPU = Config(model=ModelConfig(device="cpu", dtype="float32"))
DUMMY = Config(model=ModelConfig(device="cpu", dtype="float32", load_format="dummy"))


def speak(folder: Path, config: Config, request: SpeechRequest) -> tuple[list[Frames], list[Audio]]:
    """What generate and vocode make of a request that needs no encoding."""
    specs = {spec.name: spec for spec in MODEL.stages(folder, config)}
    with InlineStages([specs["preprocess"], specs["generate"]]) as stages:
        frames = [record for record in stages.run("r", request) if isinstance(record, Frames)]
    codes = np.concatenate([piece.codes for piece in frames])
    whole = Frames(codes, request, frames[-1].finish_reason, frames[-1].usage)
    with InlineStages([specs["vocode"]]) as stages:
        return frames, [record for record in stages.run("r", whole) if isinstance(record, Audio)]


def test_a_checkpoint_is_described_without_its_weights(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "my-voice", generation={"temperature": 0.3, "steady_voice": True})
    (folder / "model.safetensors").unlink()
    info = MODEL.describe(folder)
    assert (info.name, info.checkpoint) == ("my-voice", str(folder))
    assert (info.sample_rate_hz, info.samples_per_frame) == (24000, 960)
    assert (info.num_codebooks, info.codebook_size) == (8, 1024)
    assert info.control_tags == tuple(CONTROL_TAGS)
    assert info.context_limit == 32768
    assert info.steady_voice
    assert info.sampling == SamplingParams(0.3, 1.0, 0, None, 2048, 1.0)


def test_a_checkpoint_has_the_name_that_users_gave_it(tmp_path: Path) -> None:
    assert name_of(resolve("")) == BUILT_IN
    assert name_of(tmp_path / "models--owner--the-name" / "snapshots" / "0a1b") == "owner/the-name"
    assert name_of(tmp_path / "here") == "here"


def test_four_stages_are_declared_and_can_travel_to_another_process(tmp_path: Path) -> None:
    specs = MODEL.stages(make_checkpoint(tmp_path), CPU)
    assert [(spec.name, spec.group) for spec in specs] == [
        ("preprocess", "frontend"),
        ("encode", "frontend"),
        ("generate", "engine"),
        ("vocode", "vocoder"),
    ]
    assert pickle.loads(pickle.dumps(specs)) == specs


def cut_the_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def grow_the_model(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["text_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(content))


def drop_a_temperature(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"temperature": -1}')


@pytest.mark.parametrize("damage", [cut_the_weights, drop_the_tokenizer, grow_the_model, drop_a_temperature])
def test_what_is_wrong_with_a_checkpoint_shows_before_anything_is_built(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    make_checkpoint(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        MODEL.stages(tmp_path, CPU)


def test_a_check_says_what_it_found(tmp_path: Path) -> None:
    assert MODEL.check(make_checkpoint(tmp_path)) == "395 tensors, 1.3 million numbers"


def test_declaring_the_pipeline_needs_no_torch(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    code = (
        "import sys; from pathlib import Path; from stentor.config import Config\n"
        "from stentor.models.registry import model_for\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "model_for(folder).stages(folder, Config())\n"
        "print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize(
    "reference", [None, Reference(codes=CODES), Reference(codes=CODES, text="So I said.")]
)
def test_it_speaks(tmp_path: Path, shards: int, reference: Reference | None) -> None:
    make_checkpoint(tmp_path, shards=shards)
    sampling = SamplingParams(temperature=0, max_new_tokens=20)
    frames, audio = speak(tmp_path, CPU, SpeechRequest("r", "Hello.", reference, sampling))
    assert frames[-1].finish_reason is not None
    assert sum(len(piece.codes) for piece in frames) == 13
    waveform = np.concatenate([piece.waveform for piece in audio])
    assert waveform.shape == (13 * 960,)
    assert np.isfinite(waveform).all()
    assert waveform.std() > 0.01


@pytest.mark.parametrize(("seconds", "num_frames"), [(0.6, 25), (1.0, 25), (1.41, 36)])
def test_the_rows_of_a_recording_are_foreseen_before_it_is_encoded(
    tmp_path: Path, seconds: float, num_frames: int
) -> None:
    make_checkpoint(tmp_path)
    config = override(CPU, {"engine": {"max_context": 200}})
    specs = {spec.name: spec for spec in MODEL.stages(tmp_path, config)}
    tone = (0.3 * np.sin(np.arange(round(24000 * seconds)) / 10)).astype(np.float32)
    request = SpeechRequest("r", "Hello.", Reference(audio=encode_file(tone, "wav", 24000)))
    with InlineStages([specs["preprocess"], specs["encode"]]) as stages:
        (prompt,) = stages.run("r", request)
    assert isinstance(prompt, Prompt)
    assert prompt.reference_codes is not None
    assert prompt.reference_codes.shape == (num_frames, 8)
    assert prompt.sampling.max_new_tokens == 200 - len(prompt.token_ids) - (num_frames + 7)


@pytest.mark.parametrize(("max_context", "can_grow"), [(60, True), (80, False)])
def test_a_larger_context_is_advised_only_where_the_model_has_it(
    tmp_path: Path, max_context: int, can_grow: bool
) -> None:
    content = json.loads((make_checkpoint(tmp_path) / "config.json").read_text())
    content["text_config"]["max_position_embeddings"] = 80
    (tmp_path / "config.json").write_text(json.dumps(content))
    config = override(CPU, {"engine": {"max_context": max_context}})
    preprocess = MODEL.stages(tmp_path, config)[0]
    with InlineStages([preprocess]) as stages, pytest.raises(TooLargeError, match="no room") as refusal:
        stages.run("r", SpeechRequest("r", "Hello. " * 20))
    assert ("raise --max-context" in refusal.value.message) is can_grow


def test_dummy_weights_speak_without_any_file_of_weights(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").unlink()
    request = SpeechRequest("r", "Hello.", sampling=SamplingParams(0.0, max_new_tokens=20))
    frames, audio = speak(tmp_path, DUMMY, request)
    again, _ = speak(tmp_path, DUMMY, request)
    codes = np.concatenate([piece.codes for piece in frames])
    assert len(np.unique(codes)) > 8
    assert np.array_equal(codes, np.concatenate([piece.codes for piece in again]))
    assert sum(len(piece.waveform) for piece in audio) == len(codes) * 960


def test_the_plain_loop_runs_the_same_prompts(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    specs = {spec.name: spec for spec in MODEL.stages(tmp_path, CPU)}
    request = SpeechRequest("r", "Hello.", sampling=SamplingParams(0.0, max_new_tokens=20))
    with InlineStages([specs["preprocess"]]) as stages:
        (prompt,) = stages.run("r", request)
    assert isinstance(prompt, Prompt)
    assert MODEL.plain_loop(tmp_path, CPU)(prompt) == 13


def test_the_plain_loop_has_the_arithmetic_that_is_fastest_for_whole_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for fast, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda here=fast: here)
        loop = MODEL.plain_loop(tmp_path, override(CPU, {"model": {"dtype": "auto"}}))
        assert isinstance(loop, PlainLoop)
        assert loop._text.dtype == dtype

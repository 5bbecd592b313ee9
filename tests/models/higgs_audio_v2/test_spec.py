"""Laws of the declared pipeline: described and checked before anything is loaded; then it speaks."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stentor.audio.formats import encode_file
from stentor.config import Config, ModelConfig
from stentor.errors import CheckpointError
from stentor.models.higgs_audio_v2.spec import HiggsAudioV2
from stentor.models.registry import model_for
from stentor.request import Audio, Reference, SamplingParams, SpeechRequest
from stentor.stages.inline import InlineStages
from stentor.text.parts import parts_of
from tests.v2_checkpoints import make_v2_checkpoint

MODEL = HiggsAudioV2()
CPU = Config(model=ModelConfig(device="cpu", dtype="float32"))
DUMMY = Config(model=ModelConfig(device="cpu", dtype="float32", load_format="dummy"))
TONE = encode_file((0.3 * np.sin(np.arange(30_000) / 10)).astype(np.float32), "wav", 24000)


def speak(folder: Path, request: SpeechRequest, config: Config = CPU) -> np.ndarray:
    with InlineStages(MODEL.stages(folder, config)) as stages:
        audio = [record for record in stages.run("r", request) if isinstance(record, Audio)]
    assert audio[-1].finish_reason is not None
    return np.concatenate([piece.waveform for piece in audio])


@pytest.mark.parametrize("original", [False, True])
def test_a_checkpoint_is_described_without_its_weights(tmp_path: Path, original: bool) -> None:
    folder = make_v2_checkpoint(tmp_path / "my-voice", original=original)
    (folder / "model.safetensors").unlink()
    info = model_for(folder).describe(folder)
    assert (info.name, info.sample_rate_hz, info.samples_per_frame) == ("my-voice", 24000, 960)
    assert (info.num_codebooks, info.codebook_size, info.context_limit) == (8, 1024, 8192)
    assert info.sampling == SamplingParams(1.0, 0.95, 50, None, 2048, 1.0)
    assert info.reads_instructions
    assert info.control_tags == ()
    text = "[SPEAKER0] Good morning. How are you? [SPEAKER1] Well. And you?"
    assert parts_of(text, 1, info.speaker_tags) == [
        *("[SPEAKER0] Good morning.", "[SPEAKER0] How are you? [SPEAKER1] Well.", "[SPEAKER1] And you?")
    ]


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("reference", [None, Reference(audio=TONE), Reference(audio=TONE, text="So I said.")])
def test_it_speaks(tmp_path: Path, reference: Reference | None, original: bool) -> None:
    folder = make_v2_checkpoint(tmp_path, original=original)
    request = SpeechRequest("r", "Hello.", reference, SamplingParams(seed=3, max_new_tokens=20))
    waveform = speak(folder, request)
    assert len(waveform) % 960 == 0
    assert 0 < len(waveform) <= 13 * 960
    assert np.isfinite(waveform).all()
    assert waveform.std() > 0


def test_the_reference_and_the_scene_are_heard(tmp_path: Path) -> None:
    folder, sampling = make_v2_checkpoint(tmp_path), SamplingParams(seed=3, max_new_tokens=20)
    requests = [
        SpeechRequest("r", "Hello.", sampling=sampling),
        SpeechRequest("r", "Hello.", sampling=sampling, instructions="A cave."),
        SpeechRequest("r", "Hello.", Reference(audio=TONE), sampling),
        SpeechRequest("r", "Hello.", Reference(audio=TONE, text="So."), sampling),
    ]
    assert len({speak(folder, request).tobytes() for request in requests}) == 4


def test_dummy_weights_speak_without_any_file_of_weights(tmp_path: Path) -> None:
    folder = make_v2_checkpoint(tmp_path)
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    request = SpeechRequest("r", "Hello.", sampling=SamplingParams(seed=3, max_new_tokens=12))
    assert len(speak(folder, request, DUMMY)) == 5 * 960


def test_a_check_says_what_it_found(tmp_path: Path) -> None:
    assert MODEL.check(make_v2_checkpoint(tmp_path)) == "400 tensors, 1.3 million numbers"


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "codec/model.safetensors"])
def test_what_is_absent_shows_before_anything_is_built(tmp_path: Path, file: str) -> None:
    folder = make_v2_checkpoint(tmp_path)
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        MODEL.stages(folder, CPU)


def test_declaring_the_pipeline_needs_no_torch(tmp_path: Path) -> None:
    make_v2_checkpoint(tmp_path)
    code = (
        "import sys; from pathlib import Path; from stentor.config import Config\n"
        "from stentor.models.registry import model_for\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "model_for(folder).stages(folder, Config())\n"
        "print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

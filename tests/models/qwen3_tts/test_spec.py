"""Laws of the declared pipeline: described and checked before anything is loaded; then each kind speaks."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stentor.audio.formats import encode_file
from stentor.config import Config, ModelConfig
from stentor.errors import CheckpointError, RequestError
from stentor.models.qwen3_tts.spec import QwenTTS
from stentor.models.registry import model_for
from stentor.request import Audio, Prompt, Reference, SamplingParams, SpeechRequest
from stentor.stages.inline import InlineStages
from tests.qwen3_checkpoints import CODES, make_qwen3_checkpoint

MODEL = QwenTTS()
CPU = Config(model=ModelConfig(device="cpu", dtype="float32"))
DUMMY = Config(model=ModelConfig(device="cpu", dtype="float32", load_format="dummy"))
TONE = encode_file((0.3 * np.sin(np.arange(40_000) / 10)).astype(np.float32), "wav", 24000)
FRAMES = np.random.default_rng(2).integers(0, CODES, (7, 16))


def speak(folder: Path, request: SpeechRequest, config: Config = CPU) -> list[Audio]:
    with InlineStages(MODEL.stages(folder, config)) as stages:
        audio = [record for record in stages.run("r", request) if isinstance(record, Audio)]
    assert audio[-1].finish_reason is not None
    return audio


def asked(reference: Reference | None, **more: object) -> SpeechRequest:
    sampling = SamplingParams(seed=3, max_new_tokens=20)
    return SpeechRequest("r", "Hello.", reference, sampling, return_codes=True, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["base", "custom_voice", "voice_design"])
def test_a_checkpoint_is_described_without_its_weights(tmp_path: Path, kind: str) -> None:
    folder = make_qwen3_checkpoint(tmp_path / "my-voice", kind)
    (folder / "model.safetensors").unlink()
    info = model_for(folder).describe(folder)
    assert (info.name, info.sample_rate_hz, info.samples_per_frame) == ("my-voice", 24000, 1920)
    assert (info.num_codebooks, info.codebook_size, info.context_limit) == (16, CODES, 4096)
    assert info.sampling == SamplingParams(0.9, 1.0, 50, None, 2048, 1.05)
    assert info.speakers == (("vivian", "eric") if kind == "custom_voice" else ())
    assert info.clones == (kind == "base")
    assert info.steady_voice == (kind == "custom_voice")
    assert info.reads_instructions == (kind != "base")
    assert info.codec


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        ("base", None),
        ("base", Reference(audio=TONE)),
        ("base", Reference(audio=TONE, text="So I said.")),
        ("base", Reference(codes=FRAMES, text="So I said.")),
        ("custom_voice", Reference(speaker="eric")),
        ("voice_design", None),
    ],
)
def test_it_speaks(tmp_path: Path, kind: str, reference: Reference | None) -> None:
    audio = speak(make_qwen3_checkpoint(tmp_path, kind), asked(reference))
    waveform, codes = np.concatenate([piece.waveform for piece in audio]), audio[-1].codes
    assert codes is not None
    assert 0 < len(codes) <= 20
    assert len(waveform) == len(codes) * 1920
    assert np.isfinite(waveform).all()
    assert waveform.std() > 0
    assert audio[-1].usage is not None
    assert 20 >= audio[-1].usage.completion_tokens >= len(codes)


def test_speakers_languages_and_instructions_are_heard(tmp_path: Path) -> None:
    folder = make_qwen3_checkpoint(tmp_path)

    def codes(speaker: str = "vivian", **more: object) -> bytes:
        told = speak(folder, asked(Reference(speaker=speaker), **more))[-1].codes
        assert told is not None
        return bytes(told.tobytes())

    said = [codes(), codes("eric"), codes(language="en"), codes(instructions="Sadly.")]
    assert len(set(said)) == 4
    assert codes() == said[0]


def test_a_voice_vector_comes_of_the_recording_or_of_the_sound_of_codes(tmp_path: Path) -> None:
    folder = make_qwen3_checkpoint(tmp_path, "base")
    voices = []
    for reference in (Reference(audio=TONE), Reference(audio=TONE, text="So."), Reference(codes=FRAMES)):
        with InlineStages(MODEL.stages(folder, CPU)[:2]) as stages:
            (prompt,) = stages.run("r", asked(reference))
        assert isinstance(prompt, Prompt)
        assert prompt.voice is not None
        assert prompt.voice.shape == (48,)
        voices.append(prompt.voice)
    assert np.array_equal(voices[0], voices[1])
    assert not np.allclose(voices[0], voices[2])


def test_who_cannot_clone_says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="to clone, serve a Base checkpoint"):
        speak(make_qwen3_checkpoint(tmp_path), asked(Reference(codes=FRAMES)))


def test_random_weights_speak(tmp_path: Path) -> None:
    folder = make_qwen3_checkpoint(tmp_path, "base")
    for path in (folder / "model.safetensors", folder / "speech_tokenizer" / "model.safetensors"):
        path.unlink()
    assert len(speak(folder, asked(Reference(audio=TONE, text="So.")), DUMMY)[-1].codes) > 0  # type: ignore[arg-type]


def test_what_does_not_belong_together_is_named(tmp_path: Path) -> None:
    folder = make_qwen3_checkpoint(tmp_path)
    config = folder / "config.json"
    config.write_text(config.read_text().replace(f'"vocab_size": {CODES}', f'"vocab_size": {CODES + 1}'))
    with pytest.raises(CheckpointError, match="16 groups"):
        MODEL.describe(folder)
    assert "tensors" in MODEL.check(make_qwen3_checkpoint(tmp_path / "other", "base"))


def test_describing_and_declaring_load_no_torch(tmp_path: Path) -> None:
    folder = make_qwen3_checkpoint(tmp_path, "base")
    code = (
        "import sys; from pathlib import Path; from stentor.config import Config\n"
        "from stentor.models.registry import model_for\n"
        f"folder = Path({str(folder)!r}); model_for(folder).describe(folder)\n"
        "model_for(folder).stages(folder, Config()); assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

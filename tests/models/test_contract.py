"""What every model must keep: a new one adds a line to `MAKERS` and is held to all of it for nothing."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stentor import TTS, Config
from stentor.config import EngineConfig, ModelConfig, PipelineConfig, VocoderConfig, override
from stentor.errors import CheckpointError
from stentor.models import registry
from stentor.tts import Speech
from tests.checkpoints import make_checkpoint
from tests.qwen3_checkpoints import CODES as FEWEST_CODES
from tests.qwen3_checkpoints import make_qwen3_checkpoint
from tests.v2_checkpoints import make_v2_checkpoint

MAKERS: dict[str, Callable[[Path], Path]] = {
    "higgs_audio_v3": make_checkpoint,
    "higgs_audio_v2": make_v2_checkpoint,
    "qwen3_tts": partial(make_qwen3_checkpoint, kind="base"),
}
CONFIG = Config(
    model=ModelConfig(device="cpu", dtype="float32"),
    engine=EngineConfig(max_running_requests=4, max_context=1024, max_prefill_tokens=64),
    # Small chunks, so that a short text has several.
    vocoder=VocoderConfig(initial_chunk_frames=1, max_chunk_frames=4),
    pipeline=PipelineConfig(workers="thread"),
)
TEXTS = ["Hello world.", "A longer one, so that prompts differ in length.", "Was it a question?", "One, two!"]
OPTIONS: dict[str, Any] = {"max_new_tokens": 32, "runaway_guard": False, "temperature": 0.9}
CODES = np.random.default_rng(1).integers(0, FEWEST_CODES, (12, 16))


@pytest.fixture(scope="module", params=MAKERS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tts(checkpoint: Path) -> Iterator[TTS]:
    with TTS(checkpoint, config=CONFIG) as tts:
        yield tts


def ways(tts: TTS, number: int) -> dict[str, Any]:
    """Four ways to ask: plain, cloned with and without words, with a penalty."""
    reference = {"reference": CODES[:, : tts.info.num_codebooks]}
    more = [{}, reference, reference | {"reference_text": "So I said."}, {"repetition_penalty": 1.4}]
    return OPTIONS | {"seed": number} | more[number]


def same(one: Speech, other: Speech) -> bool:
    return np.array_equal(one.codes, other.codes) and np.array_equal(one.waveform, other.waveform)


def test_every_model_is_held_to_this() -> None:
    folders = {module.split(".")[2] for module in registry._MODELS.values()}
    assert folders == set(MAKERS)


def test_a_seed_says_the_same_again_alone_and_in_company(tts: TTS) -> None:
    alone = [tts.speak(text, **ways(tts, number)) for number, text in enumerate(TEXTS)]
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(tts.speak, text, **ways(tts, n)) for _ in "12" for n, text in enumerate(TEXTS)]
        together = [job.result(timeout=100) for job in jobs]
    assert all(same(one, other) for one, other in zip(alone * 2, together, strict=True))
    assert len({speech.waveform.tobytes() for speech in alone}) == 4
    assert not same(alone[0], tts.speak(TEXTS[0], **ways(tts, 0) | {"seed": 77}))


def test_prefilled_in_pieces_or_at_once_it_is_the_same(tts: TTS, checkpoint: Path) -> None:
    whole = override(CONFIG, {"engine": {"max_prefill_tokens": 1024, "prefix_caching": False}})
    with TTS(checkpoint, config=whole) as other:
        for number, text in enumerate(TEXTS):
            assert same(tts.speak(text, **ways(tts, number)), other.speak(text, **ways(tts, number)))


def test_a_stream_is_the_same_audio(tts: TTS) -> None:
    for number, text in enumerate(TEXTS):
        speech, stream = tts.speak(text, **ways(tts, number)), tts.stream(text, **ways(tts, number))
        chunks = list(stream)
        assert len(chunks) > 2
        assert np.array_equal(speech.codes, stream.codes)
        streamed = np.concatenate(chunks)
        assert np.abs(streamed - speech.waveform[: len(streamed)]).max() <= 1 / 32768


def test_audio_is_as_long_as_its_codes(tts: TTS) -> None:
    info = tts.info
    speech = tts.speak(TEXTS[0], **ways(tts, 0), trim_silence=False)
    assert speech.codes is not None
    assert speech.codes.shape[1] == info.num_codebooks
    assert speech.codes.max() < info.codebook_size
    assert len(speech.waveform) == len(speech.codes) * info.samples_per_frame
    assert np.isfinite(speech.waveform).all()
    assert speech.usage is not None
    assert speech.usage.completion_tokens <= OPTIONS["max_new_tokens"]


def test_a_tensor_that_is_missing_is_named_before_anything_is_built(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in checkpoint.iterdir():
        (tmp_path / path.name).symlink_to(path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    dropped = next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))
    del tensors[dropped]
    save_file(tensors, weights)
    (tmp_path / "model.safetensors.index.json").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=f"1 tensor is missing: {dropped}"):
        registry.model_for(tmp_path).check(tmp_path)

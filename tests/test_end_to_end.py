"""The whole house on random checkpoints of the real format: what comes out is what the oracle says."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from stentor import TTS, Config
from stentor.config import EngineConfig, ModelConfig, PipelineConfig
from tests.checkpoints import Recipe, make_checkpoint
from tests.engine.oracle import NUM_CODEBOOKS, Oracle, checkpoint_tensors

TEXTS = [
    "Hello world.",
    "A longer sentence, so that the prompts differ in length.",
    "Numbers: 1, 2 and 3!",
    "Was it a question?",
]
MAX_ROWS = 130
RECIPE = {"seed": 21, "hidden": 40, "heads": 6, "kv_heads": 2, "head_dim": 12, "shards": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sharded, without the duplicate tied heads, with tokens at shuffled ids."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return make_checkpoint(folder, tied_heads_on_disk=False, shuffle_tokens=True, **RECIPE)


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> list[np.ndarray]:
    """The oracle's frames of each text, from prompts written out by hand."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    prompts = []
    for text in TEXTS:
        ids = tokenizer.encode(f"<|tts|><|text|>{text}<|audio|>", add_special_tokens=False).ids
        prompts.append(np.array([[token, *[0] * NUM_CODEBOOKS] for token in ids], dtype=np.int32))
    oracle = Oracle(Recipe(**RECIPE), checkpoint_tensors(checkpoint))
    rows = oracle.generate(prompts, MAX_ROWS)
    assert sum(len(generated) == MAX_ROWS for generated in rows) >= 2, "choose texts that run for long"
    return [frames_of(generated) for generated in rows]


def frames_of(rows: np.ndarray) -> np.ndarray:
    """Undo the delay pattern; special codes are silenced."""
    frames = [
        [rows[first + c, c] for c in range(NUM_CODEBOOKS)] for first in range(len(rows) - NUM_CODEBOOKS + 1)
    ]
    return np.where(np.array(frames) < 1024, frames, 0)


def config(workers: str, checkpoint: Path, device: str = "cpu") -> Config:
    """Sixteen sequences at once in float32, in threads or in processes."""
    return Config(
        model=ModelConfig(model=str(checkpoint), device=device, dtype="float32"),
        engine=EngineConfig(max_running_requests=16, max_context=512),
        pipeline=PipelineConfig(workers=workers, start_timeout_s=90),
    )


@pytest.mark.parametrize(
    ("workers", "device"), [("thread", "cpu"), ("process", "cpu"), ("thread", "cpu,cpu")]
)
def test_greedy_codes_are_those_of_the_oracle(
    workers: str, device: str, checkpoint: Path, expected: list[np.ndarray]
) -> None:
    with TTS(config=config(workers, checkpoint, device)) as tts, ThreadPoolExecutor(16) as pool:
        jobs = [
            pool.submit(tts.speak, text, temperature=0.0, max_new_tokens=MAX_ROWS, runaway_guard=False)
            for text in TEXTS * 4
        ]
        spoken = [job.result(timeout=100) for job in jobs]
    for speech, frames in zip(spoken, expected * 4, strict=True):
        np.testing.assert_array_equal(speech.codes, frames)
        assert len(speech.waveform) == 960 * len(frames)


def test_a_stream_is_the_same_audio(checkpoint: Path) -> None:
    with TTS(config=config("thread", checkpoint)) as tts:
        options = {"seed": 5, "temperature": 1.0, "max_new_tokens": 80, "runaway_guard": False}
        whole = tts.speak(TEXTS[1], **options)
        told: list[float] = []
        streamed = tts.stream(TEXTS[1], **options).whole(told.append)
    assert len(told) > 1
    assert told[-1] == pytest.approx(streamed.duration_s)
    np.testing.assert_array_equal(streamed.codes, whole.codes)
    np.testing.assert_allclose(streamed.waveform, whole.waveform, atol=1 / 32768)


def test_a_cloned_voice_depends_on_the_reference(checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    with TTS(config=config("thread", checkpoint)) as tts:
        options = {"temperature": 0.0, "max_new_tokens": 40, "reference_text": "hello"}
        codes = [rng.integers(0, 1024, (30, NUM_CODEBOOKS)) for _ in range(2)]
        first, second, again = (
            tts.speak(TEXTS[0], reference=reference, **options).codes
            for reference in (codes[0], codes[1], codes[0])
        )
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, again)

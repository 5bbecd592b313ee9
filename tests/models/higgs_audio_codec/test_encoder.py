import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from stentor.errors import OverloadedError
from stentor.models.higgs_audio_codec.config import CodecConfig
from stentor.models.higgs_audio_codec.encoder import CodecEncoder, exact_convolutions
from stentor.models.higgs_audio_codec.weights import CodecWeights
from stentor.request import Array
from tests.models.higgs_audio_codec.reference import (
    MemoryWeights,
    Tensors,
    original_layout,
    random_parameters,
    tiny_config,
    transformers_codec,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(tiny: CodecConfig, parameters: Tensors) -> CodecEncoder:
    return CodecEncoder(CodecWeights(MemoryWeights(parameters), tiny), tiny, CPU)


def clip(samples: int, seed: int = 0) -> Array:
    """Noise under a slow envelope: every frame differs from the others."""
    generator = np.random.default_rng(seed)
    envelope = 0.3 * (1.2 + np.sin(np.arange(samples) / 3000))
    return (envelope * generator.standard_normal(samples)).astype(np.float32)


@torch.no_grad()
def oracle_encode(oracle: Any, waveform: Array) -> Array:
    codes = oracle.encode(torch.from_numpy(waveform)[None, None]).audio_codes
    return np.asarray(codes[0].T)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("layout", ["transformers", "original"])
def test_codes_equal_those_of_transformers(tiny: CodecConfig, layout: str, seed: int) -> None:
    parameters = random_parameters(tiny_config(), seed)
    stored = parameters if layout == "transformers" else original_layout(parameters, seed)
    encoder = CodecEncoder(CodecWeights(MemoryWeights(stored), tiny), tiny, CPU)
    waveform = clip(960 * 60, seed)
    codes = encoder.encode([waveform])[0]
    np.testing.assert_array_equal(
        codes, oracle_encode(transformers_codec(tiny_config(), parameters), waveform)
    )
    assert min(len(np.unique(codes[:, level])) for level in range(8)) > 20


@pytest.mark.parametrize("shorter", [0, 700])
def test_clips_of_one_padded_length_encode_together_as_alone(encoder: CodecEncoder, shorter: int) -> None:
    clips = [clip(960 * 40 - seed * shorter // 3, seed) for seed in range(3)]
    for together, waveform in zip(encoder.encode(clips), clips, strict=True):
        assert (together.dtype, together.shape) == (np.uint16, (40, 8))
        np.testing.assert_array_equal(together, encoder.encode([waveform])[0])


@pytest.mark.parametrize("room", [0, 1, 2])
def test_clips_without_memory_together_are_encoded_alone(
    encoder: CodecEncoder, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [clip(960 * 40, seed) for seed in range(3)]
    expected, acoustic = encoder.encode(clips), encoder._acoustic

    def cramped(batch: torch.Tensor) -> torch.Tensor:
        return acoustic(batch) if len(batch) <= room else torch.empty(1 << 50)

    monkeypatch.setattr(encoder, "_acoustic", cramped)
    if room:
        for alone, together in zip(encoder.encode(clips), expected, strict=True):
            np.testing.assert_array_equal(alone, together)
    else:
        with pytest.raises(OverloadedError, match="no memory for a reference of 2 s"):
            encoder.encode(clips)


def test_clips_of_different_lengths_are_refused_as_one_batch(encoder: CodecEncoder) -> None:
    with pytest.raises(AssertionError, match="one padded length"):
        encoder.encode([clip(960 * 30), clip(960 * 31)])


@pytest.mark.parametrize("samples", [1, 100, 959, 5000, 24000, 24001, 24119, 24500, 24960, 48119])
def test_a_clip_is_lengthened_by_silence_to_whole_frames_and_a_second(
    encoder: CodecEncoder, tiny: CodecConfig, oracle: Any, samples: int
) -> None:
    waveform = clip(samples)
    codes = encoder.encode([waveform])[0]
    assert len(codes) == max(25, -(-samples // 960)) == tiny.padded_length(samples) // 960
    padded = np.concatenate([waveform, np.zeros(len(codes) * 960 - samples, np.float32)])
    np.testing.assert_array_equal(codes, oracle_encode(oracle, padded))


def test_a_clip_longer_than_a_tile_encodes_the_same(encoder: CodecEncoder, oracle: Any) -> None:
    waveform = clip(960 * 200)
    np.testing.assert_array_equal(encoder.encode([waveform])[0], oracle_encode(oracle, waveform))


def test_transformers_is_not_imported_before_a_reference_comes() -> None:
    program = (
        "import sys, stentor.models.higgs_audio_codec.encoder, stentor.models.higgs_audio_codec.vocoder;"
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_exact_convolutions_put_the_switches_back() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    with exact_convolutions(torch.device("cuda")):
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
        assert torch.backends.cudnn.enabled
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == before
    with exact_convolutions(CPU):
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == before

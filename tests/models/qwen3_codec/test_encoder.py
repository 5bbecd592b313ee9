from typing import Any

import numpy as np
import pytest
import torch

from stentor.models.higgs_audio_codec.convolution import ReadWeight
from stentor.models.qwen3_codec.config import QwenCodecConfig
from stentor.models.qwen3_codec.encoder import QwenEncoder
from stentor.request import Array
from tests.models.qwen3_codec.reference import mimi, stored
from tests.qwen3_codec_files import TINY_QWEN_CODEC


@pytest.fixture(scope="module")
def encoder(read: ReadWeight, config: QwenCodecConfig) -> QwenEncoder:
    return QwenEncoder(read, config, torch.device("cpu"))


def clip(samples: int, seed: int = 0) -> Array:
    """Noise under a slow envelope: every frame differs from the others."""
    envelope = 0.3 * (1.2 + np.sin(np.arange(samples) / 3000))
    return (envelope * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@torch.no_grad()
def test_codes_equal_mimi_s_first_ones_over_the_whole_clip(encoder: QwenEncoder, read: ReadWeight) -> None:
    """The reference's encoder sees all that is before a frame, not the 10 steps that its file says."""
    model = mimi(TINY_QWEN_CODEC["encoder_config"], sliding_window=1000)
    model.load_state_dict({name: read(stored(name)) for name in model.state_dict()})
    # A broken frame at the end is one: what it lacks is silence to each layer, not to the first.
    for missing in (0, 1220, 1820):
        waveform = clip(1920 * 40 - missing)
        (codes,) = encoder.encode([waveform])
        expected = model.encode(torch.from_numpy(waveform)[None, None]).audio_codes[0, :16].T
        np.testing.assert_array_equal(codes, expected)
        assert (codes.dtype, codes.shape) == (np.uint16, (40, 16))
    assert np.mean([len(np.unique(codes[:, level])) for level in range(16)]) > 8


def test_clips_of_one_length_encode_together_as_alone(
    encoder: QwenEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    switched: list[bool] = []
    plain = encoder._mimi.encode

    def encode(*given: Any, **how: Any) -> Any:
        switched.append(torch.backends.mkldnn.enabled)  # type: ignore[attr-defined]
        return plain(*given, **how)

    monkeypatch.setattr(encoder._mimi, "encode", encode)
    clips = [clip(1920 * 20 - 600, seed) for seed in range(3)]
    for together, waveform in zip(encoder.encode(clips), clips, strict=True):
        np.testing.assert_array_equal(together, encoder.encode([waveform])[0])
    # oneDNN would keep tables of every length that comes.
    assert switched == [False] * 4
    assert torch.backends.mkldnn.enabled  # type: ignore[attr-defined]

import math

import numpy as np
import pytest
import torch

from stentor.models.higgs_audio_codec.semantic import resample, resampling_kernel


def resampled_by_definition(signal: np.ndarray, o: int, n: int) -> np.ndarray:
    """The description's formula, one output sample at a time."""
    base = min(o, n) * 0.99
    width = math.ceil(6 * o / base)
    padded = np.concatenate([np.zeros(width), signal, np.zeros(width + o)])
    outputs = []
    for sample in range(math.ceil(len(signal) * n / o)):
        step, phase = divmod(sample, n)
        t = np.clip((np.arange(-width, width + o) / o - phase / n) * base, -6, 6)
        kernel = np.sinc(t) * np.cos(np.pi * t / 12) ** 2 * base / o
        outputs.append(kernel @ padded[step * o : step * o + len(kernel)])
    return np.array(outputs)


@pytest.mark.parametrize(("from_hz", "to_hz", "o", "n"), [(24000, 16000, 3, 2), (16000, 24000, 2, 3)])
@pytest.mark.parametrize("samples", [1, 2, 3, 959, 960])
def test_resampling_follows_the_formula(from_hz: int, to_hz: int, o: int, n: int, samples: int) -> None:
    signal = np.random.default_rng(samples).standard_normal((2, samples)).astype(np.float32)
    kernel = resampling_kernel(from_hz, to_hz)
    resampled = resample(torch.from_numpy(signal), kernel, from_hz, to_hz).numpy()
    expected = np.stack([resampled_by_definition(row.astype(np.float64), o, n) for row in signal])
    np.testing.assert_allclose(resampled, expected, rtol=0, atol=2e-6)


def test_a_tone_keeps_its_frequency_and_one_above_the_new_range_is_gone() -> None:
    time = np.arange(24000) / 24000
    kernel = resampling_kernel(24000, 16000)
    for frequency_hz, amplitude in ((1000, 1.0), (11000, 0.0)):
        tone = torch.from_numpy(np.sin(2 * np.pi * frequency_hz * time).astype(np.float32))[None]
        middle = resample(tone, kernel, 24000, 16000)[0, 4000:12000].numpy()
        expected = amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(4000, 12000) / 16000)
        np.testing.assert_allclose(middle, expected, atol=2e-2)

"""Laws of the speaker encoder: the network and the spectrum that its weights were made with."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stentor.errors import OverloadedError
from stentor.models.qwen3_codec.speaker import SpeakerEncoder
from tests.models.qwen3_codec.test_speaker_config import SMALL, config


def log_mel(waveform: np.ndarray) -> torch.Tensor:
    """What the network is given, [1, frames, mels], by transformers' means."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    filters = mel_filter_bank(513, SMALL["mel_dim"], 0, 12_000, 24_000, norm="slaney", mel_scale="slaney")
    padded = np.pad(waveform, 384, mode="reflect")
    how: dict[str, Any] = {"power": 1.0, "center": False, "mel_floor": 1e-5, "log_mel": "log"}
    bands = spectrogram(padded, window_function(1024, "hann"), 1024, 256, mel_filters=filters, **how)
    return torch.from_numpy(bands.T.astype(np.float32))[None]


@pytest.mark.parametrize("samples", [1920, 24_000])
def test_a_voice_is_that_of_the_network_of_transformers(samples: int) -> None:
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import ECAPA_TimeDelayNet

    torch.manual_seed(3)
    theirs = ECAPA_TimeDelayNet(SimpleNamespace(**SMALL)).eval()  # type: ignore[arg-type]
    state = theirs.state_dict()
    assert config().shapes() == {name: tuple(tensor.shape) for name, tensor in state.items()}
    waveform = np.random.default_rng(4).normal(0, 0.1, samples).astype(np.float32)
    waveform[: samples // 3] = 0
    ours = SpeakerEncoder(state.__getitem__, config(), torch.device("cpu"))(waveform)
    with torch.inference_mode():
        expected = theirs(log_mel(waveform))[0].numpy()
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_no_memory_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = config().shapes()
    encoder = SpeakerEncoder(lambda name: torch.zeros(shapes[name]), config(), torch.device("cpu"))
    monkeypatch.setattr(encoder, "_hear", lambda _: torch.empty(1 << 60))
    with pytest.raises(OverloadedError, match="no memory for a reference of 2 s"):
        encoder(np.zeros(48_000, np.float32))

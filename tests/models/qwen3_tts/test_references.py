"""A voice is heard in the recording, or, of codes alone, in the sound that they stand for."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stentor.models.qwen3_tts.references import VoiceEncoder


def test_codes_alone_are_heard_as_sound_by_a_vocoder_that_is_made_once() -> None:
    made: list[int] = []

    def make() -> Any:
        made.append(1)
        return SimpleNamespace(decode=lambda windows: [np.full(4, 1.5 * window.sum()) for window in windows])

    def hear(waveform: np.ndarray) -> np.ndarray:
        return waveform * 2

    encoder, codes = VoiceEncoder(hear, make), np.ones((2, 3), np.uint16)  # type: ignore[arg-type]
    assert encoder(codes, np.full(2, 0.25)).tolist() == [0.5, 0.5]
    assert not made
    # What is too loud is cut off, as listeners get it.
    assert encoder(codes, None).tolist() == encoder(codes, None).tolist() == [2.0] * 4
    assert len(made) == 1
    # Of many codes, which would take long, the first are enough.
    assert encoder(np.ones((2000, 3), np.uint16) * 1e-9, None).max() == pytest.approx(2 * 1.5 * 75 * 3e-9)

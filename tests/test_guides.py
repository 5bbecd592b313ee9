"""Laws of the guides' numbers; that their commands run is a law of `tests/clients/test_guides.py`."""

import re
from pathlib import Path

import numpy as np
import pytest

from stentor.audio.formats import FORMATS, Encoder
from stentor.audio.shape import Shape, Shaper
from tests.audio.test_tempo import voice

GUIDES = Path(__file__).parents[1] / "docs" / "guides"
RATE = 24_000


def budget() -> dict[str, float]:
    """Milliseconds of audio by part, as the guide's table has them."""
    rows = re.findall(r"^\| ([^|]+?) \| (\d+) \|$", (GUIDES / "stream.md").read_text(), re.MULTILINE)
    return {part.replace("`", ""): float(ms) for part, ms in rows}


@pytest.mark.parametrize("format", FORMATS)
def test_the_first_sound_leaves_an_encoder_within_its_budget(format: str) -> None:
    encoder, waveform = Encoder(format, RATE), voice(1.0)
    encoder.encode(waveform[:1])  # with a header, if there is one
    budget_samples = round(budget()[f"format {format}"] * RATE / 1_000)
    sent = sum(len(encoder.encode(waveform[at : at + 24])) for at in range(1, budget_samples + 24, 24))
    assert sent > 0


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        *[("speed up to 1", Shape(speed=speed)) for speed in (0.25, 0.5, 0.99)],
        *[("speed up to 2", Shape(speed=speed)) for speed in (1.01, 1.5, 2.0)],
        *[("speed up to 4", Shape(speed=speed)) for speed in (2.5, 4.0)],
        *[("sample_rate", Shape(sample_rate_hz=rate_hz)) for rate_hz in (8_000, 16_000, 44_100, 48_000)],
        ("loudness_lufs", Shape(loudness_lufs=-20)),
    ],
)
def test_the_first_sound_is_shaped_within_its_budget(part: str, shape: Shape) -> None:
    waveform = voice(1.0)[: round(budget()[part] * RATE / 1_000)]
    shaper = Shaper(shape, RATE)
    # In the frames that the model makes.
    assert sum(len(shaper.feed(frame)) for frame in np.array_split(waveform, len(waveform) // 960)) > 0

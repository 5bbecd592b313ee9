"""Laws of the guides: each command in them runs as it stands, and the numbers in them hold."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stentor.audio.formats import FORMATS, Encoder
from stentor.audio.shape import Shape, Shaper
from stentor.bench.local_server import LocalServer
from tests.audio.test_tempo import voice

GUIDES = Path(__file__).parents[1] / "docs" / "guides"
RATE = 24_000

# The first of them waits for a server to load, on however busy a machine.
pytestmark = pytest.mark.timeout(600)


def blocks(guide: str) -> list[tuple[str, str]]:
    """(language, code) of every block of a guide."""
    return re.findall(r"```(sh|python)\n(.*?)```", (GUIDES / guide).read_text(), re.DOTALL)


# Guides whose every block is for a server on port 8000.
RUN = [(guide, language, code) for guide in ("stream.md",) for language, code in blocks(guide)]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with LocalServer() as running:
        yield running.url


@pytest.mark.parametrize(
    ("guide", "language", "code"), RUN, ids=[f"{guide}-{number}" for number, (guide, *_) in enumerate(RUN)]
)
def test_each_command_of_a_guide_runs_as_it_stands(
    server: str, tmp_path: Path, guide: str, language: str, code: str
) -> None:
    player = tmp_path / "aplay"
    player.write_text("#!/bin/sh\ncat > played\ntest -s played\n")
    player.chmod(0o755)
    code = code.replace("http://localhost:8000", server)
    command = (
        [sys.executable, "-c", code] if language == "python" else ["bash", "-eo", "pipefail", "-c", code]
    )
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NO_PROXY": "*"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    made = [path for path in tmp_path.iterdir() if path.name != "aplay"]
    assert made or done.stdout
    assert all(path.stat().st_size > 1_000 for path in made)


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

"""A real Chromium in front of a real server; only where both it and Playwright are there (`-m browser`)."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stentor.tts import TTS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    # A microphone that plays a file, and sound without a click.
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
    "--autoplay-policy=no-user-gesture-required",
)
PATIENCE_S = 90


@contextmanager
def running(*command: str, data: Path) -> Iterator[str]:
    """A `stentor` command that tells its address as the last word of its first line."""
    environment = {**os.environ, "XDG_DATA_HOME": str(data)}
    words = [sys.executable, "-m", "stentor", *command]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()
            process.stdout.read()


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "me.wav"
    with TTS() as tts:
        tts.speak("The old dog saw the small boat near the river.", seed=0).save(path)
    return path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running("serve", "--port", "0", data=tmp_path_factory.mktemp("data")) as url:
        yield url


@pytest.fixture
def page(recording: Path, tmp_path: Path) -> Iterator[Any]:
    """A fresh tab; what goes wrong in its scripts is in `page.problems`."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    playwright.expect.set_options(timeout=1000 * PATIENCE_S)
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=CHROMIUM,
            headless=True,
            args=[*FLAGS, f"--use-file-for-fake-audio-capture={recording}"],
            viewport={"width": 1000, "height": 1100},
            permissions=["microphone"],
        )
        context.set_default_timeout(1000 * PATIENCE_S)
        tab = context.new_page()
        tab.problems = []
        tab.on("pageerror", lambda error: tab.problems.append(str(error)))
        yield tab
        context.close()

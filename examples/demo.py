"""Starts a server and makes a plain, a cloned and a streamed recording through its HTTP API."""

import argparse
import array
import base64
import json
import math
import sys
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stentor.bench.local_server import LocalServer
from stentor.errors import StentorError

PLAIN = "The old man told a good story about the sea."
CLONED = "Now the same voice says another sentence."
STREAMED = "You hear the first words of this sentence while the last ones are still being made."

SILENCE_RMS = 50  # of 32,768; the quietest speech is far above


class DemoError(Exception):
    """A recording is not what it should be."""


@dataclass(frozen=True)
class Recording:
    """One line of the table."""

    text: str
    path: Path
    audio_s: float
    first_audio_s: float
    total_s: float


def speak(url: str, path: Path, text: str, **extra: Any) -> Recording:
    """Ask for a whole WAV file."""
    sent_s = time.perf_counter()
    data, first_s = b"", 0.0
    for piece in post(url, {"input": text, "seed": 1, **extra}):
        first_s = first_s or time.perf_counter() - sent_s
        data += piece
    total_s = time.perf_counter() - sent_s
    path.write_bytes(data)
    return Recording(text, path, length_s(path), first_s, total_s)


def stream(url: str, path: Path, text: str) -> Recording:
    """Ask for raw PCM and write each chunk when it arrives."""
    sent_s = time.perf_counter()
    first_s = 0.0
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        for chunk in post(url, {"input": text, "seed": 1, "stream": True, "response_format": "pcm"}):
            first_s = first_s or time.perf_counter() - sent_s
            file.writeframes(chunk)
    return Recording(text, path, length_s(path), first_s, time.perf_counter() - sent_s)


def post(url: str, body: dict[str, Any]) -> Iterator[bytes]:
    """The response's body, piece by piece, as it arrives."""
    request = urllib.request.Request(
        f"{url}/v1/audio/speech", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            while piece := response.read1(65_536):
                yield piece
    except urllib.error.HTTPError as error:
        raise DemoError(f"HTTP {error.code}: {error.read().decode(errors='replace')}") from None


def length_s(path: Path) -> float:
    """Seconds of a WAV file that is neither empty nor silent."""
    with wave.open(str(path)) as file:
        samples = array.array("h", file.readframes(file.getnframes()))
        rate = file.getframerate()
    rms = math.sqrt(sum(value * value for value in samples) / len(samples)) if samples else 0.0
    if rms < SILENCE_RMS:
        raise DemoError(f"{path} is silent")
    return len(samples) / rate


def make_all(url: str, folder: Path) -> list[Recording]:
    """The three recordings; the first is the reference of the second."""
    plain = speak(url, folder / "plain.wav", PLAIN)
    recording = base64.b64encode(plain.path.read_bytes()).decode()
    reference = {"audio_path": f"data:audio/wav;base64,{recording}", "text": PLAIN}
    cloned = speak(url, folder / "cloned.wav", CLONED, references=[reference])
    return [plain, cloned, stream(url, folder / "streamed.wav", STREAMED)]


def print_table(recordings: list[Recording]) -> None:
    """One line per recording."""
    width = max(len(made.text) for made in recordings)
    print(f"{'text':{width}}  seconds   TTFA ms    RTF  file")
    for made in recordings:
        ttfa_ms, rtf = 1000 * made.first_audio_s, made.total_s / made.audio_s
        print(f"{made.text:{width}}  {made.audio_s:7.2f}  {ttfa_ms:8.0f}  {rtf:5.2f}  {made.path}")
    print(
        "The first reference loads the encoder, which the second line includes; only the third was streamed."
    )


def main() -> int:
    """Run the demonstration; the exit status is 0 if all three recordings are sound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the recordings")
    parser.add_argument("--model", help="folder or hub id; by default the built-in voice")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    print("starting a server ...", file=sys.stderr)
    try:
        with LocalServer([options.model] if options.model else []) as server:
            print_table(make_all(server.url, options.output))
    except (DemoError, StentorError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

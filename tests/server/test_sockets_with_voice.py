"""The doors in front of the built-in voice: what is heard is, sample for sample, what it says offline."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import connect

from stentor import TTS
from stentor.audio.formats import to_pcm16
from stentor.audio.shape import Shape
from stentor.server.app import create_app
from stentor.voices import VoiceStore
from tests.server.conftest import Front
from tests.server.fakes import config
from tests.sound import shape_whole

SENTENCES = ["The old dog saw the boat. ", "Then it went home."]
SEED = 11


class Voice:
    """The served voice, and the same voice offline."""

    def __init__(self, tts: TTS, port: int) -> None:
        self.port = port
        self._tts = tts

    def offline(self, text: str, shape: Shape) -> np.ndarray:
        """The waveform that a text has offline, so shaped, as 16-bit samples."""
        waveform = shape_whole(
            self._tts.speak(text, seed=SEED, trim_silence=False).waveform,
            shape,
            self._tts.info.sample_rate_hz,
        )
        return np.frombuffer(to_pcm16(waveform), "<i2")


@pytest.fixture(scope="module")
def voice(front_and_port: tuple[Front, int]) -> Iterator[Voice]:
    front, port = front_and_port
    with TTS() as tts:
        tts.start()
        assert tts._pipeline is not None
        front.app = create_app(tts._pipeline, tts.info, VoiceStore(tts.info, config().reference), config())
        yield Voice(tts, port)


def expect(heard: bytes, waveforms: list[np.ndarray]) -> None:
    samples = np.frombuffer(heard, "<i2")
    expected = np.concatenate(waveforms)
    assert len(samples) == len(expected)
    # Streamed and whole audio agree to a sixteenth of a percent of a step; rounding may fall either way.
    assert np.abs(samples.astype(int) - expected).max() <= 1


def test_text_in_portions_sounds_as_its_sentences_do(voice: Voice) -> None:
    with connect(f"ws://127.0.0.1:{voice.port}/v1/audio/speech/stream", proxy=None) as socket:
        settings = {"stream_audio": True, "response_format": "pcm", "seed": SEED, "trim_silence": False}
        socket.send(json.dumps({"type": "session.config", **settings}))
        for word in "".join(SENTENCES).split(" "):
            socket.send(json.dumps({"type": "input.text", "text": word + " "}))
        socket.send(json.dumps({"type": "input.done"}))
        heard, kind = b"", ""
        while kind != "session.done":
            message = socket.recv(timeout=60)
            if isinstance(message, bytes):
                heard += message
            else:
                kind = json.loads(message)["type"]
                assert kind != "error", message
    untrimmed = Shape(trim_silence=False)
    expect(heard, [voice.offline(sentence, untrimmed) for sentence in (SENTENCES[0], SENTENCES[1] + " ")])


def test_realtime_sounds_as_offline(voice: Voice) -> None:
    with connect(f"ws://127.0.0.1:{voice.port}/v1/realtime", proxy=None) as socket:
        socket.send(json.dumps({"type": "session.update", "session": {"type": "realtime", "seed": SEED}}))
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": SENTENCES[1]}]}
        socket.send(
            json.dumps({"type": "response.create", "response": {"conversation": "none", "input": [item]}})
        )
        events: list[dict[str, Any]] = []
        while not events or events[-1]["type"] != "response.done":
            events.append(json.loads(socket.recv(timeout=60)))
    assert events[-1]["response"]["status"] == "completed"
    deltas = [event["delta"] for event in events if event["type"] == "response.output_audio.delta"]
    expect(b"".join(map(base64.b64decode, deltas)), [voice.offline(SENTENCES[1], Shape())])

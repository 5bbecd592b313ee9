"""Who reads as it comes hears the first sound while the rest is still being made.

No clock is asked: a fake pipeline says two seconds, and the rest only when the client has heard something.
"""

import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stentor.request import FinishReason, SpeechRequest
from tests.clients.conftest import PROGRAM_TIMEOUT_S, command_of, environment_of, program_in
from tests.clients.hearing import SENTENCE
from tests.server.conftest import Running
from tests.server.fakes import USAGE, Act, sound

GATE_TIMEOUT_S = 30


class Gate:
    """A script that says two seconds, waits until it is opened, and then says the rest."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened_in_time: list[bool] = []

    def __call__(self, _: SpeechRequest) -> Iterator[Act]:
        for _ in range(10):
            yield sound(0.2)
        self.opened_in_time.append(self.opened.wait(GATE_TIMEOUT_S))
        yield sound(1.0, finish_reason=FinishReason.STOP, usage=USAGE)


Serve = Callable[..., Running]


@pytest.mark.clients
@pytest.mark.parametrize(
    ("environment", "program"),
    [
        ("livekit", "livekit_speech.py"),
        ("pipecat", "pipecat_speech.py"),
        ("node", "node_stream.mjs"),
        ("realtime", "realtime_stream.py"),
    ],
)
def test_first_sound_arrives_while_the_rest_is_made(
    environment: str, program: str, serve: Serve, tmp_path: Path
) -> None:
    gate = Gate()
    running = serve(gate)
    process = subprocess.Popen(
        [
            *command_of(environment),
            str(program_in(environment, program)),
            running.url,
            "stentor-test",
            SENTENCE,
        ],
        cwd=tmp_path,
        env=environment_of(),
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(PROGRAM_TIMEOUT_S, process.kill)
    watchdog.start()
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if "first audio" in line:
                gate.opened.set()
    watchdog.cancel()
    assert process.returncode == 0
    assert gate.opened_in_time == [True]


@pytest.mark.parametrize("asked", [{}, {"stream_format": "audio"}], ids=["by-the-library", "by-the-field"])
@pytest.mark.parametrize("format", ["pcm", "wav", "flac", "mp3", "opus", "aac"])
def test_openai_hears_the_first_sound_of_every_format_while_the_rest_is_made(
    format: str, asked: dict[str, Any], serve: Serve
) -> None:
    gate = Gate()
    streamed = (
        serve(gate)
        .openai()
        .audio.speech.with_streaming_response.create(
            model="stentor-test", voice="alloy", input=SENTENCE, response_format=format, **asked
        )
    )
    with streamed as response:
        for chunk in response.iter_bytes(4096):
            assert chunk
            gate.opened.set()
    assert gate.opened_in_time == [True]

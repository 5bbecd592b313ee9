"""Laws of a listener who reads no faster than he plays: he is waited for, and hears all of it."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from websockets.sync.client import connect

from stentor.cli.serve import take_port
from stentor.config import ServerConfig
from stentor.request import FinishReason, SpeechRequest
from stentor.server.app import create_app
from stentor.server.lifetime import uvicorn_settings
from tests.server.fakes import INFO, USAGE, Act, FakePipeline, config, sound, voices

# More than the system's buffers on both sides take.
SECONDS = 200
HURRY = 200

SAY = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}
RESPOND = {"type": "response.create", "response": {"conversation": "none", "input": [SAY]}}


def long_speech(_: SpeechRequest) -> Iterator[Act]:
    for left in reversed(range(SECONDS)):
        yield sound(1.0, **({} if left else {"finish_reason": FinishReason.STOP, "usage": USAGE}))


@pytest.fixture
def served() -> Iterator[Callable[[], int]]:
    """A server as `stentor serve` sets it, but that it pings, and gives up, 200 times as soon."""
    pipeline: Any = FakePipeline(long_speech)
    settings = uvicorn_settings(create_app(pipeline, INFO, voices(), config()), 2**20)
    settings.ws_ping_interval = (settings.ws_ping_interval or 0) / HURRY
    settings.ws_ping_timeout = settings.ws_ping_timeout and settings.ws_ping_timeout / HURRY
    server = uvicorn.Server(settings)
    with take_port(ServerConfig(port=0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield lambda: listener.getsockname()[1]
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def test_a_listener_who_does_not_read_for_many_pings_hears_all_of_it(served: Callable[[], int]) -> None:
    url = f"ws://127.0.0.1:{served()}/v1/realtime?model=tts-1"
    heard = 0
    with connect(url, proxy=None, max_queue=1, ping_interval=None) as session:
        session.send(json.dumps(RESPOND))
        # So long he reads nothing; were he given up, waiting longer would not help him.
        time.sleep(1.0)
        event: dict[str, Any] = {"type": ""}
        while event["type"] != "response.done":
            event = json.loads(session.recv(timeout=60))
            if event["type"] == "response.output_audio.delta":
                heard += len(base64.b64decode(event["delta"]))
    assert heard == SECONDS * 2 * INFO.sample_rate_hz

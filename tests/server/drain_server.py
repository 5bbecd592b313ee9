"""A server process whose requests go on until a file appears; arguments: the file, limit_s, delay_s."""

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from stentor.request import FinishReason, SpeechRequest
from stentor.server.app import create_app
from stentor.server.lifetime import Server
from tests.server.fakes import INFO, USAGE, Act, FakePipeline, config, sound, voices


def main(done: Path, limit_s: float, delay_s: float) -> int:
    def script(request: SpeechRequest) -> Iterator[Act]:
        yield sound(0.1)
        while not done.exists():
            yield 0.01
            if request.text == "break":
                pipeline.is_alive = False
        time.sleep(0.05)
        yield sound(0.1, finish_reason=FinishReason.STOP, usage=USAGE)

    pipeline = FakePipeline(script)
    settings = config(shutdown_timeout_s=limit_s, drain_delay_s=delay_s)
    app = create_app(pipeline, INFO, voices(), settings)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        hello = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = Server(uvicorn.Config(app, log_config=None), app.state.admission, settings.server, hello)
        server.run(sockets=[listener])
    return server.status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))

"""A server process with every route there is, in front of a fake pipeline; arguments: a folder, a key."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import uvicorn

from stentor.config import override
from stentor.request import FinishReason, SpeechRequest
from stentor.server.app import create_app
from stentor.server.lifetime import Server
from stentor.voices import VoiceStore
from tests.server.fakes import INFO, USAGE, Act, FakePipeline, config, sound


def speak(request: SpeechRequest) -> Iterator[Act]:
    """A moment of sound, with codes for who enrolls a voice."""
    codes = np.zeros((2, INFO.num_codebooks), np.int32) if request.return_codes or request.enroll else None
    yield sound(0.08, finish_reason=FinishReason.STOP, usage=USAGE, codes=codes)


def main(folder: Path, key: str) -> None:
    keys = folder / "keys.toml"
    keys.write_text(f'[fuzz]\nkey = "{key}"\nadmin = true\n')
    settings = config({"api_keys_file": str(keys), "admin": True}, log_level="warning")
    settings = override(settings, {"reference": {"voices_folder": str(folder / "voices")}})
    store = VoiceStore(INFO, settings.reference)
    app = create_app(FakePipeline(speak), INFO, store, settings)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        hello = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = Server(uvicorn.Config(app, log_config=None), app.state.admission, settings.server, hello)
        server.run(sockets=[listener])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

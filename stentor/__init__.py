"""Stentor serves speech language models: text in, streamed speech out.

The public names, nothing else. They are imported on first use, so that `import stentor` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stentor.config import Config
    from stentor.errors import ConfigError, RequestError, StentorError
    from stentor.tts import TTS, Speech

__version__ = "0.1.0"

__all__ = ["TTS", "Config", "ConfigError", "RequestError", "Speech", "StentorError", "__version__"]

_HOMES = {
    "TTS": "stentor.tts",
    "Config": "stentor.config",
    "ConfigError": "stentor.errors",
    "RequestError": "stentor.errors",
    "Speech": "stentor.tts",
    "StentorError": "stentor.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stentor' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

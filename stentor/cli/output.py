"""Where a command's result goes: checked before the long work, written after it; '-' is stdout."""

import sys
from pathlib import Path

from stentor.errors import ConfigError

STDOUT = "-"


def check_output(path: str | Path) -> None:
    """Refuse a path that cannot become a file, with a ConfigError, before any work is done for it."""
    if str(path) == STDOUT:
        return
    if Path(path).is_dir():
        raise ConfigError(f"cannot write to {str(path)!r}: it is a folder; name a file in it")
    folder = Path(path).parent
    if not folder.is_dir():
        raise ConfigError(f"cannot write to {str(path)!r}: there is no folder {str(folder)!r}")


def write_output(path: str | Path, data: bytes) -> None:
    """The result, whole or not at all. Raises ConfigError where the file cannot be written."""
    try:
        if str(path) == STDOUT:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            from stentor.audio.formats import write_whole

            write_whole(path, data)
    except OSError as error:
        raise ConfigError(f"cannot write to {str(path)!r}: {error.strerror}") from None

"""One line on stderr that says how far long work has come; silent where nobody watches."""

import sys
import time
from typing import TextIO


class Progress:
    """A line that is rewritten in place on a terminal; a context manager that wipes it at the end."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._started_s = time.monotonic()
        self._width = 0

    def show(self, text: str) -> None:
        """Replace the line by `text` and the seconds gone by."""
        if self._stream.isatty():
            line = f"{text} ({time.monotonic() - self._started_s:.1f} s)"
            self._stream.write("\r" + line.ljust(self._width))
            self._stream.flush()
            self._width = len(line)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()

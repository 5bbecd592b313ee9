"""A server of our own on a free loopback port, for as long as a benchmark, a demo or a test needs it."""

import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence

from stentor.errors import InternalError


class LocalServer:
    """`stentor serve` as a child process; a context manager that gives its URL and stops it at the end.

    Raises InternalError, with the last lines that the server wrote, if it does not become ready.
    """

    def __init__(
        self,
        arguments: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 300.0,
        module: str = "stentor",
    ) -> None:
        """`environment` has variables beside this process's own; `module` is run in place of `stentor`."""
        self.url = ""
        self._command = [sys.executable, "-m", module, "serve", "--port", "0", *arguments]
        self._environment = {**os.environ, **(environment or {})}
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._log: deque[str] = deque(maxlen=20)
        self._reader: threading.Thread | None = None

    def __enter__(self) -> "LocalServer":
        process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._process = process
        self._reader = threading.Thread(target=self._keep_log, args=(process,), daemon=True)
        self._reader.start()
        watchdog = threading.Timer(self._timeout_s, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None, "asked for above"
            line = process.stdout.readline()
        finally:
            watchdog.cancel()
        found = re.search(r"http://\S+", line)
        if found is None:
            self.stop()
            raise InternalError("the server did not start:\n" + "".join(self._log))
        self.url = found.group()
        return self

    def stop(self, timeout_s: float = 30.0) -> int:
        """Ask it to stop, wait, and give its exit status; kill it when it does not stop in time."""
        process = self._process
        assert process is not None, "entered before"
        process.terminate()
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if self._reader is not None:
            self._reader.join(timeout_s)
            self._reader = None
        if process.stdout is not None:
            process.stdout.close()
        return status

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _keep_log(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None, "asked for above"
        with process.stderr as lines:
            self._log.extend(lines)

"""A folder of small files that several processes change at once: no change is lost, no file is ever half."""

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from stentor.errors import InternalError, OverloadedError

_LOCK = ".lock"
_LOCK_TIMEOUT_S = 10.0
_LOCK_POLL_S = 0.01
# Within this time of the folder's last change its date may not tell of another (file systems count in ticks,
# the coarsest in two seconds).
_SETTLED_NS = 3_000_000_000

Stamp = tuple[int, int, int]


class SharedFolder:
    """The files of one suffix in a folder that is made when the first is written.

    Whoever changes something holds the lock, which the system takes back from a process that dies. A file
    appears under its name only when all of it is on the disk.
    """

    def __init__(self, path: Path, suffix: str) -> None:
        self.path = path
        self._suffix = suffix
        self._seen_ns: int | None = None

    def may_have_changed(self) -> bool:
        """Whether a file may have come, changed, gone or become readable since the last `scan`."""
        return self._seen_ns is None or self._seen_ns != self._changed_ns()

    def scan(self) -> dict[str, Stamp]:
        """The names of all files, without suffix, each with a stamp that differs when the file does.

        Raises:
            InternalError: the folder cannot be read.
        """
        changed_ns = self._changed_ns()
        settled = time.time_ns() - changed_ns > _SETTLED_NS
        found = {}
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    if entry.name.endswith(self._suffix) and not entry.name.startswith("."):
                        with contextlib.suppress(FileNotFoundError):
                            state = entry.stat()
                            stamp = state.st_mtime_ns, state.st_size, state.st_ino
                            found[entry.name.removesuffix(self._suffix)] = stamp
        except FileNotFoundError:
            found = {}
        except OSError as error:
            raise self._failed("read", error) from None
        self._seen_ns = changed_ns if settled else None
        return found

    def read(self, name: str) -> bytes | None:
        """The file's bytes, None if there is none of that name."""
        try:
            return self._file(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._seen_ns = None  # It may be readable again without a change of the folder.
            raise self._failed("read", error) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against every other writer, of this process and of others.

        Raises:
            InternalError: the folder cannot be written.
            OverloadedError: another writer holds it for too long.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._failed("written", error) from None
        try:
            _lock(handle)
            # Nobody else writes now: what is half written was left by somebody who died.
            for left in self.path.glob(".*.tmp"):
                left.unlink(missing_ok=True)
            yield
        finally:
            os.close(handle)

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a file, the lock being held; when this returns it is on the disk."""
        temporary = self.path / f".{secrets.token_hex(8)}.tmp"
        try:
            with open(temporary, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._file(name))
            self._sync()
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._failed("written", error) from None

    def remove(self, name: str) -> None:
        """Remove a file, the lock being held."""
        try:
            self._file(name).unlink(missing_ok=True)
            self._sync()
        except OSError as error:
            raise self._failed("written", error) from None

    def _file(self, name: str) -> Path:
        return self.path / f"{name}{self._suffix}"

    def _changed_ns(self) -> int:
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

    def _sync(self) -> None:
        """Make the folder's own entries last."""
        handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _failed(self, what: str, error: OSError) -> InternalError:
        return InternalError(f"the folder of voices {str(self.path)!r} cannot be {what}: {error.strerror}")


def _lock(handle: int) -> None:
    deadline_s = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise OverloadedError("the voices are being changed by somebody else: try again") from None
            time.sleep(_LOCK_POLL_S)

"""Knows how to get the bytes of a reference: from a path, a URL, a data URI, base64 text or bytes.

Files are read only below one folder, after symlinks; URLs go to `Downloader`; the size is limited everywhere.
"""

import base64
import binascii
import os
import re
import stat
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from stentor.audio.download import Downloader, check_media_type, check_size
from stentor.config import ReferenceConfig
from stentor.errors import ForbiddenError, NotFoundError, RequestError

# No audio file is shorter, and no path is as long without a dot. The `+` behind the count keeps what it took:
# no text is tried in two ways, which for a megabyte of blanks would take hours.
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{64,}+=*\s*")
_DATA_URI = re.compile(
    r"data:(?P<type>[^;,]*)(?P<parameters>(;[^;,]*)*),(?P<data>.*)", re.DOTALL | re.IGNORECASE
)


def is_url(audio: str | bytes) -> bool:
    """Is it to be fetched from a server, which may be slow."""
    return isinstance(audio, str) and audio[:8].lower().startswith(("http://", "https://"))


class ReferenceReader:
    """Reads references within the limits of its configuration; safe to use from several threads.

    `downloader` replaces the one that fetches URLs.
    """

    def __init__(self, config: ReferenceConfig, *, downloader: Downloader | None = None) -> None:
        self._config = config
        self._downloader = downloader or Downloader(config.max_bytes, config.fetch_timeout_s)

    def read(self, audio: str | bytes) -> bytes:
        """The bytes of a reference: `audio` itself, or what the path, URL, data URI or base64 stands for.

        Blocks for at most `fetch_timeout_s` and a little.

        Raises:
            RequestError: it cannot be read or fetched, or is not of an audio type.
            NotFoundError: there is no such file.
            ForbiddenError: the file or the address is not for this server to read.
            TooLargeError: it has more than `max_bytes`.
        """
        try:
            return self._read(audio)
        except RequestError as error:
            error.param = "references"
            raise

    def _read(self, audio: str | bytes) -> bytes:
        if isinstance(audio, bytes):
            check_size(len(audio), self._config.max_bytes)
            return audio
        if is_url(audio):
            return self._fetch(audio)
        if audio[:5].lower() == "data:":
            return self._from_data_uri(audio)
        if _BASE64.fullmatch(audio):
            return self._from_base64(audio)
        return self._from_file(audio)

    def _from_data_uri(self, uri: str) -> bytes:
        parts = _DATA_URI.fullmatch(uri)
        if parts is None:
            raise RequestError("the data URI has no comma: write data:audio/wav;base64,...")
        if parts["type"]:
            check_media_type(parts["type"])
        if "base64" in parts["parameters"].lower().split(";"):
            return self._from_base64(unquote(parts["data"]))
        data = unquote_to_bytes(parts["data"])
        check_size(len(data), self._config.max_bytes)
        return data

    def _from_base64(self, text: str) -> bytes:
        standard = re.sub(r"\s", "", text).rstrip("=").replace("-", "+").replace("_", "/")
        check_size(len(standard) * 3 // 4, self._config.max_bytes)
        try:
            return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
        except binascii.Error as error:
            raise RequestError(f"the reference is not valid base64: {error}") from None

    def _from_file(self, name: str) -> bytes:
        if not self._config.allowed_folder:
            raise ForbiddenError(
                "this server reads no local files: send a URL or base64, or start it with --allowed-folder"
            )
        root = Path(self._config.allowed_folder).resolve()
        try:
            path = (root / name.removeprefix("file://")).resolve()
            if not path.is_relative_to(root):
                raise ForbiddenError(
                    "the reference is outside the folder that this server may read (--allowed-folder)"
                )
            return self._read_regular(path)
        except OSError as error:
            detail = error.strerror
        except (ValueError, RuntimeError):
            detail = "it is no regular file"
        # The name as it came: where the folder lies is not the caller's business.
        raise NotFoundError(f"the reference {name[:200]!r} cannot be read: {detail}")

    def _read_regular(self, path: Path) -> bytes:
        # Not through a symlink put there since, and without waiting for the other end of a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as file:
            state = os.fstat(handle)
            if not stat.S_ISREG(state.st_mode):
                raise ValueError("a folder, a pipe or a device")
            check_size(state.st_size, self._config.max_bytes)
            data = file.read(self._config.max_bytes + 1)
        check_size(len(data), self._config.max_bytes)
        return data

    def _fetch(self, url: str) -> bytes:
        if not self._config.allow_urls:
            raise ForbiddenError("this server fetches no URLs: send base64, or start it with --allow-urls")
        return self._downloader.get(url)

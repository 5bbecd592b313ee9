import base64
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from stentor.audio.fetch import ReferenceReader
from stentor.config import ReferenceConfig
from stentor.errors import ForbiddenError, NotFoundError, RequestError, TooLargeError

SOUND = b"RIFF" + bytes(range(256)) * 4


def reader(**settings: object) -> ReferenceReader:
    return ReferenceReader(ReferenceConfig(**settings))  # type: ignore[arg-type]


# Bytes, base64, data URIs


def test_bytes_are_themselves() -> None:
    assert reader().read(SOUND) == SOUND


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(SOUND).decode(),
        base64.urlsafe_b64encode(SOUND).decode(),
        base64.b64encode(SOUND).decode().rstrip("="),
        base64.encodebytes(SOUND).decode(),
        "data:audio/wav;base64," + base64.b64encode(SOUND).decode(),
        "data:;base64," + base64.b64encode(SOUND).decode(),
        "data:audio/wav;base64," + quote(base64.b64encode(SOUND).decode(), safe=""),
        "DATA:audio/x-wav;codecs=1;BASE64," + base64.b64encode(SOUND).decode(),
        "data:application/octet-stream," + "".join(f"%{byte:02x}" for byte in SOUND),
    ],
)
def test_base64_and_data_uris_are_decoded(text: str) -> None:
    assert reader().read(text) == SOUND


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data:audio/wav;base64", "no comma"),
        ("data:audio/wav;base64,@@@@", "not valid base64"),
        ("data:text/html;base64,aGVsbG8=", "must be audio"),
        ("A" * 65, "not valid base64"),
    ],
)
def test_damaged_text_is_refused(text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        reader().read(text)
    assert caught.value.param == "references"


def test_the_lines_of_base64_do_not_count_as_bytes() -> None:
    text = base64.encodebytes(SOUND).decode()
    assert reader(max_bytes=len(SOUND)).read(text) == SOUND
    with pytest.raises(TooLargeError, match="more than 1027 bytes"):
        reader(max_bytes=len(SOUND) - 1).read(text)


def test_blanks_do_not_hold_the_reader_up() -> None:
    with pytest.raises(ForbiddenError):
        reader().read("A" * 64 + " " * 300_000 + "!")


@pytest.mark.parametrize("make", [bytes, lambda data: base64.b64encode(data).decode()])
def test_what_is_too_large_is_refused(make: Callable[[bytes], str | bytes]) -> None:
    assert reader(max_bytes=len(SOUND)).read(make(SOUND)) == SOUND
    with pytest.raises(TooLargeError, match="more than 1027 bytes"):
        reader(max_bytes=len(SOUND) - 1).read(make(SOUND))


# Files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    allowed = tmp_path / "allowed"
    (allowed / "deep").mkdir(parents=True)
    (allowed / "deep" / "voice.wav").write_bytes(SOUND)
    (tmp_path / "secret.wav").write_bytes(b"secret")
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "secret.wav").write_bytes(b"secret")
    return allowed


@pytest.mark.parametrize(
    "form", ["{0}/deep/voice.wav", "file://{0}/deep/voice.wav", "deep/../deep/voice.wav"]
)
def test_files_below_the_folder_are_read(folder: Path, form: str) -> None:
    assert reader(allowed_folder=str(folder)).read(form.format(folder)) == SOUND


def test_a_folder_that_is_a_symlink_itself_is_fine(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert reader(allowed_folder=str(link)).read(f"{link}/deep/voice.wav") == SOUND


@pytest.mark.parametrize(
    "form",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "../secret.wav",
        "{0}/../secret.wav",
        "deep/../../secret.wav",
        "{0}-not/secret.wav",
        "{0}/out.wav",
        "{0}/way/secret.wav",
        "..",
    ],
)
def test_files_outside_the_folder_are_forbidden(folder: Path, form: str) -> None:
    (folder / "out.wav").symlink_to(folder.parent / "secret.wav")
    (folder / "way").symlink_to(folder.parent)
    with pytest.raises(ForbiddenError, match=r"outside the folder.*--allowed-folder"):
        reader(allowed_folder=str(folder)).read(form.format(folder))


def test_without_a_folder_no_file_is_read_and_the_message_says_how_to_allow_it(folder: Path) -> None:
    with pytest.raises(ForbiddenError, match="--allowed-folder"):
        reader().read(f"{folder}/deep/voice.wav")


def test_what_is_no_readable_file_is_not_found(folder: Path) -> None:
    os.mkfifo(folder / "pipe.wav")
    (folder / "loop.wav").symlink_to(folder / "loop.wav")
    for name in ("missing.wav", "pipe.wav", "deep", "loop.wav", "nul\0.wav", "x." * 2_000, ".", ""):
        with pytest.raises(NotFoundError, match="cannot be read") as caught:
            reader(allowed_folder=str(folder)).read(name)
        assert str(folder) not in caught.value.message


def test_a_file_over_the_limit_is_refused(folder: Path) -> None:
    with pytest.raises(TooLargeError):
        reader(allowed_folder=str(folder), max_bytes=100).read("deep/voice.wav")


# URLs


class Recorded:
    """A downloader that notes what it is asked for."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    def get(self, url: str) -> bytes:
        self.urls.append(url)
        return SOUND


@pytest.mark.parametrize("url", ["http://a.example/b.wav", "HTTPS://a.example/b.wav"])
def test_urls_go_to_the_downloader(url: str) -> None:
    downloader = Recorded()
    assert ReferenceReader(ReferenceConfig(), downloader=downloader).read(url) == SOUND  # type: ignore[arg-type]
    assert downloader.urls == [url]


def test_without_a_downloader_of_their_own_urls_meet_all_guards() -> None:
    with pytest.raises(ForbiddenError, match="no public address") as caught:
        reader().read("http://127.0.0.1:9/a.wav")
    assert caught.value.param == "references"


def test_urls_can_be_switched_off() -> None:
    with pytest.raises(ForbiddenError, match="--allow-urls"):
        reader(allow_urls=False).read("http://voices.example/a.wav")

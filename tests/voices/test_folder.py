import errno
import threading
import time
from pathlib import Path

import pytest

from stentor.errors import InternalError, OverloadedError
from stentor.voices import folder as module
from stentor.voices.folder import SharedFolder


@pytest.fixture
def shared(tmp_path: Path) -> SharedFolder:
    return SharedFolder(tmp_path / "new" / "voices", ".voice")


def write(shared: SharedFolder, name: str, data: bytes) -> None:
    with shared.locked():
        shared.write(name, data)


def test_a_folder_that_is_not_there_is_empty(shared: SharedFolder) -> None:
    assert shared.scan() == {}
    assert shared.read("a") is None
    assert not shared.path.exists()


def test_what_was_written_is_there_and_private(shared: SharedFolder) -> None:
    write(shared, "a", b"one")
    assert shared.read("a") == b"one"
    assert set(shared.scan()) == {"a"}
    assert shared.path.stat().st_mode & 0o077 == 0
    assert (shared.path / "a.voice").stat().st_mode & 0o077 == 0


def test_a_change_of_another_process_is_noticed(shared: SharedFolder) -> None:
    other = SharedFolder(shared.path, ".voice")
    shared.scan()
    for data in (b"one", b"two"):
        write(other, "a", data)
        assert shared.may_have_changed()
        before = shared.scan()
    with other.locked():
        other.remove("a")
    assert shared.may_have_changed()
    assert (set(before), shared.scan()) == ({"a"}, {})


def test_a_quiet_folder_is_not_read_again(shared: SharedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write(shared, "a", b"one")
    now_ns = time.time_ns()
    monkeypatch.setattr(module.time, "time_ns", lambda: now_ns + 10_000_000_000)
    shared.scan()
    assert not shared.may_have_changed()
    monkeypatch.setattr(module.time, "time_ns", lambda: now_ns)
    write(shared, "b", b"two")
    shared.scan()
    # Its date may be that of a change to come.
    assert shared.may_have_changed()


def test_a_replaced_file_has_another_stamp(shared: SharedFolder) -> None:
    write(shared, "a", b"one")
    first = shared.scan()["a"]
    write(shared, "a", b"three")
    assert shared.scan()["a"] != first


def test_what_a_dead_process_left_is_swept_and_never_listed(shared: SharedFolder) -> None:
    write(shared, "a", b"one")
    left = shared.path / ".0123.tmp"
    left.write_bytes(b"hal")
    assert set(shared.scan()) == {"a"}
    write(shared, "b", b"two")
    assert not left.exists()


def test_only_one_writer_holds_the_folder(shared: SharedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_TIMEOUT_S", 0.05)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with shared.locked():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(30)
    with pytest.raises(OverloadedError, match="try again"), SharedFolder(shared.path, ".voice").locked():
        pass
    leave.set()
    thread.join(30)
    with shared.locked():
        pass


def test_a_failed_write_leaves_the_old_file(shared: SharedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write(shared, "a", b"one")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", fail)
    with pytest.raises(InternalError, match="cannot be written: No space left"):
        write(shared, "a", b"two")
    assert shared.read("a") == b"one"
    assert sorted(path.name for path in shared.path.iterdir()) == [".lock", "a.voice"]


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "voices").write_text("")
    with (
        pytest.raises(InternalError, match="voices' cannot be written"),
        SharedFolder(tmp_path / "voices", ".voice").locked(),
    ):
        pass


def test_a_folder_that_could_not_be_read_is_looked_at_again(
    shared: SharedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(shared, "a", b"one")
    later_ns = time.time_ns() + 10_000_000_000
    monkeypatch.setattr(module.time, "time_ns", lambda: later_ns)
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "scandir", _too_many_open_files)
        with pytest.raises(InternalError, match="Too many"):
            shared.scan()
    assert shared.may_have_changed()
    shared.scan()
    assert not shared.may_have_changed()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", _too_many_open_files)
        with pytest.raises(InternalError, match="Too many"):
            shared.read("a")
    assert shared.may_have_changed()


def _too_many_open_files(_path: Path) -> None:
    raise OSError(errno.EMFILE, "Too many open files")

"""Several processes share the voices, and are killed in the midst of it: nothing that was done is lost."""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from stentor.voices import VoiceStore
from tests.server.fakes import voices

# Makes, changes and removes voices without end, and says before and after each what it does.
WRITER = """
import sys
from pathlib import Path
import numpy as np
from stentor.config import ReferenceConfig
from stentor.request import ModelInfo, SamplingParams
from stentor.voices import VoiceStore

folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
info = ModelInfo("m", str(folder.parent), 24_000, 960, 8, 1024, (), 1, SamplingParams(), "c")
store = VoiceStore(info, ReferenceConfig(voices_folder=str(folder)))

def tell(*words):
    print(*words, flush=True)

while True:
    count += 1
    mine = f"{name} {count}"
    tell("begin", "add", mine)
    store.add(mine, np.full((50, 8), count, np.uint16), b"fLaC" * 5000, transcript=str(count))
    tell("done", "add", mine)
    tell("begin", "mark", count)
    store.change("Shared", **{"description" if name == "A" else "consent": str(count)})
    tell("done", "mark", count)
    if count % 3 == 0:
        tell("begin", "remove", mine)
        store.remove(mine)
        tell("done", "remove", mine)
"""


class Writer:
    """One such process, and what it said so far."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.count, self.mark = folder, name, 0, 0
        self.present: set[str] = set()
        self.unsure: set[str] = set()

    @contextmanager
    def running(self) -> Iterator[None]:
        command = [sys.executable, "-c", WRITER, str(self.folder), self.name, str(self.count)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            self.lines = process.stdout
            try:
                yield
            finally:
                process.kill()  # SIGKILL, wherever it is.
            for line in process.stdout:
                self.hear(line)

    def read(self, lines: int) -> None:
        for _ in range(lines):
            self.hear(self.lines.readline())

    def hear(self, line: str) -> None:
        assert line.endswith("\n"), "it ended by itself"
        phase, what, subject = line.rstrip().split(" ", 2)
        if what == "mark":
            self.mark = int(subject) if phase == "done" else self.mark
        elif phase == "begin":
            self.count = int(subject.split()[1])
            self.unsure.add(subject)
        else:
            self.unsure.discard(subject)
            (self.present.add if what == "add" else self.present.discard)(subject)


@pytest.mark.timeout(240)
def test_kill_9_at_any_moment_loses_no_voice_and_leaves_no_half_one(tmp_path: Path) -> None:
    folder = tmp_path / "voices"
    reader = voices(tmp_path)
    reader.add("Shared", np.ones((2, 8), np.uint16))
    writers = [Writer(folder, "A"), Writer(folder, "B")]
    chance = random.Random(0)
    for _ in range(4):
        with writers[0].running(), writers[1].running():
            for writer in writers:
                writer.read(chance.randrange(4, 16))
        check(reader, writers)
        check(voices(tmp_path), writers)
    assert min(len(writer.present) for writer in writers) > 3
    reader.remove("Shared")
    assert {path.suffix for path in folder.iterdir() if path.name != ".lock"} == {".voice"}


def check(store: VoiceStore, writers: list[Writer]) -> None:
    own = {voice.name for voice in store.all() if not voice.preset and voice.name != "Shared"}
    promised = set().union(*(writer.present for writer in writers))
    unsure = set().union(*(writer.unsure for writer in writers))
    assert promised - unsure <= own <= promised | unsure
    for name in own:
        file = store.read(name)
        assert file.voice.transcript == name.split()[1]
        assert file.recording == b"fLaC" * 5000
        assert (file.codes == int(name.split()[1])).all()
    shared = store.about("Shared")
    for writer, told in zip(writers, (shared.description, shared.consent), strict=True):
        # The change that was under way may have been made.
        assert writer.mark <= int(told or 0) <= writer.count

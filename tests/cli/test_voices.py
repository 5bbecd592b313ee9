"""Laws of `stentor voices`: what it keeps can be spoken; every command of the guide runs as it stands."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from stentor.cli.main import app
from stentor.errors import RequestError
from stentor.tts import TTS
from tests.sound import read_wav

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "voices.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", GUIDE, re.DOTALL)

runner = CliRunner()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "me.wav"
    with TTS() as tts:
        tts.speak("The old dog saw the small boat near the river.", seed=0).save(path)
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.setenv("STENTOR_REFERENCE_VOICES_FOLDER", str(tmp_path / "voices"))

    def invoke(*words: str, ok: bool = True) -> str:
        done = runner.invoke(app, ["voices", *words])
        assert (done.exit_code == 0) is ok, done.output
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.stdout

    return invoke  # type: ignore[return-value]


def test_a_voice_is_made_shown_carried_about_and_removed(run, recording: Path, tmp_path: Path) -> None:
    before = run("list")
    made = run("add", "Rosa", str(recording), "--text", "Words.", "--description", "calm").strip()
    built_in = before.splitlines()
    listed = [line.split("\t") for line in run("list").splitlines() if line not in built_in]
    assert [line[0] for line in listed] == ["Rosa"]
    assert (listed[0][1], listed[0][3]) == (made, "calm")
    assert f'"id": "{made}"' in run("show", "Rosa")
    file = str(tmp_path / "rosa.voice")
    assert run("export", made, "-o", file) == ""
    run("remove", "Rosa")
    assert run("list") == before
    assert before.split()[:3] == ["default", "default", "checkpoint"]
    assert run("import", file, "--name", "Other").strip() == made
    assert '"transcript": "Words."' in run("show", "Other")


def test_a_voice_may_be_made_of_codes(run, tmp_path: Path) -> None:
    np.save(tmp_path / "codes.npy", np.ones((10, 8), np.int64))
    run("add", "Codes", "--codes", str(tmp_path / "codes.npy"))
    assert '"duration_s": 0.4' in run("show", "Codes")


def test_a_recording_or_codes_and_not_both(run, recording: Path) -> None:
    with pytest.raises(RequestError, match="give one"):
        run("add", "Rosa", ok=False)
    with pytest.raises(RequestError, match="give one"):
        run("add", "Rosa", str(recording), "--codes", "x.npy", ok=False)


def test_a_name_that_is_taken_is_refused_before_the_work(run, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="already"):
        run("add", "default", str(tmp_path / "there is no such file"), ok=False)


def test_the_guide_has_commands() -> None:
    assert len(BLOCKS) == 7
    assert {"add", "list", "show", "remove", "export", "import"} == set(
        re.findall(r"stentor voices (\w+)", " ".join(text for _, text in BLOCKS))
    )


@pytest.mark.timeout(300)
def test_each_command_of_the_guide_runs_as_it_stands(recording: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "data"), "NO_PROXY": "*"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for name in ("me.wav", "i-agree.wav"):
        (tmp_path / name).write_bytes(recording.read_bytes())
    command = [sys.executable, "-m", "stentor", "serve", "--port", "0", "--workers", "thread"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().split()[-1]
            for language, text in BLOCKS:
                text = text.replace("http://localhost:8000", url)
                shell = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
                text = text.replace("curl ", "curl -sS --fail-with-body ") if language == "sh" else text
                done = subprocess.run(
                    [*shell, text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
                )
                assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        finally:
            server.terminate()
    for name in ("rosa.wav", "preview.wav", "mira.wav"):
        assert len(read_wav(tmp_path / name)[0]) > 24_000 / 2
    assert server.returncode == 0

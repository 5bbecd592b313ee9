"""Laws of consents, by OpenAI's own client: kept whole, told as its reference has it, asked for by voices."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import BadRequestError, NotFoundError

from stentor.audio.formats import encode_file
from stentor.config import ReferenceConfig
from stentor.errors import RequestError
from stentor.server.app import create_app
from stentor.server.consents import Consents
from tests.server.conftest import Front, Running
from tests.server.fakes import INFO, RATE, config, tone, voices
from tests.server.test_voices import make_voices

WAV = encode_file(tone(1.0), "wav", RATE)
SETTINGS = ReferenceConfig(max_voices=30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "voices"


@pytest.fixture
def consents(folder: Path) -> Consents:
    return Consents(folder, SETTINGS)


@pytest.fixture
def server(serve: Callable[..., Running], front_and_port: tuple[Front, int], folder: Path) -> Running:
    running, store = serve(make_voices), voices(folder.parent)
    front_and_port[0].app = create_app(running.pipeline, INFO, store, config())  # type: ignore[arg-type]
    return running


def test_openais_client_makes_reads_renames_and_removes_one(server: Running, folder: Path) -> None:
    api = server.openai().audio.voice_consents
    made = api.create(name="Rosa Meier", language="de-DE", recording=("yes.wav", WAV, "audio/x-wav"))
    assert (made.name, made.language, made.object) == ("Rosa Meier", "de-DE", "audio.voice_consent")
    assert made.id.startswith("cons_")
    assert made.created_at > 1_700_000_000
    assert api.retrieve(made.id) == made
    assert (folder / f"{made.id}.recording").read_bytes() == WAV
    assert api.update(made.id, name="R. Meier").name == api.retrieve(made.id).name == "R. Meier"
    deleted = api.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "audio.voice_consent")
    with pytest.raises(NotFoundError, match="no consent"):
        api.retrieve(made.id)
    assert list(folder.glob("cons_*")) == []


def test_openais_client_walks_the_pages(server: Running, consents: Consents) -> None:
    made = {consents.add(f"Speaker {number}", "en", WAV).id for number in range(25)}
    api = server.openai().audio.voice_consents
    assert [len(page.data) for page in api.list(limit=10).iter_pages()] == [10, 10, 5]
    assert {one.id for one in api.list()} == made
    first = server.http.get("/v1/audio/voice_consents?limit=3").json()
    assert (first["object"], first["has_more"]) == ("list", True)
    assert first["first_id"] == first["data"][0]["id"]
    assert first["last_id"] == first["data"][2]["id"]
    assert set(first["data"][0]) == {"id", "created_at", "language", "name", "object"}
    none = server.http.get(f"/v1/audio/voice_consents?after={consents.all()[-1].id}").json()
    assert none == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_a_voice_names_a_consent_that_is_there_or_words(server: Running, consents: Consents) -> None:
    voices, sample = server.openai().audio.voices, ("me.wav", WAV, "audio/wav")
    given = consents.add("Rosa", "en", WAV)
    made = voices.create(name="Rosa", audio_sample=sample, consent=given.id)
    assert server.http.get(f"/v1/audio/voices/{made.id}").json()["consent"] == given.id
    for wrong in ("cons_1234", "cons_" + "0" * 20):
        with pytest.raises(BadRequestError, match="no consent") as caught:
            voices.create(name="Otto", audio_sample=sample, consent=wrong)
        assert (caught.value.param, caught.value.code) == ("consent", "consent_not_found")
        changed = server.http.patch(f"/v1/audio/voices/{made.id}", json={"consent": wrong})
        assert changed.status_code == 400
    voices.create(name="Otto", audio_sample=sample, consent="cons_1234, as we agreed by letter")
    # A consent that is withdrawn leaves the decision about the voice to people.
    server.openai().audio.voice_consents.delete(given.id)
    assert server.http.get("/v1/audio/voices/Rosa").json()["consent"] == given.id


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"recording": b"no audio"}, "recording"),
        ({"recording": b""}, "recording"),
        ({"recording": encode_file(np.zeros(RATE, np.float32), "wav", RATE)}, "recording"),
        ({"recording": b"R" * (ReferenceConfig().max_bytes + 1)}, "recording"),
        ({"recording": None}, "recording"),
        ({"language": "English please"}, "language"),
        ({"language": None}, "language"),
        ({"name": " "}, "name"),
        ({"name": "x" * 257}, "name"),
        ({"colour": "red"}, "colour"),
    ],
    ids=str,
)
def test_what_is_no_consent_is_refused_by_name(
    server: Running, change: dict[str, Any], param: str, folder: Path
) -> None:
    form = {"name": "Rosa", "language": "en", "recording": WAV, **change}
    form = {name: value for name, value in form.items() if value is not None}
    files = {"recording": ("r.wav", form.pop("recording"))} if "recording" in form else {"x": ("x", b"")}
    response = server.http.post("/v1/audio/voice_consents", data=form, files=files)
    assert response.status_code in (400, 413)
    if "x" not in files:
        assert response.json()["error"]["param"] == param
    assert list(folder.glob("cons_*")) == []


@pytest.mark.parametrize("name", ["cons_x", "..", "%2e%2e%2fvoices", "cons_" + "0" * 20])
def test_what_is_not_there_is_not_found(server: Running, name: str) -> None:
    for method in ("GET", "DELETE"):
        assert server.http.request(method, f"/v1/audio/voice_consents/{name}").status_code in (404, 405)
    assert server.http.get(f"/v1/audio/voice_consents?after={name}").status_code == 400
    assert server.http.get("/v1/audio/voice_consents?limit=101").status_code == 400


def test_there_are_not_more_than_allowed(folder: Path) -> None:
    few = Consents(folder, ReferenceConfig(max_voices=1))
    few.add("Rosa", "en", WAV)
    with pytest.raises(RequestError, match="--max-voices"):
        few.add("Otto", "en", WAV)


# Makes, renames and removes consents without end, and says what is done.
WRITER = """
import sys
from pathlib import Path
from stentor.config import ReferenceConfig
from stentor.server.consents import Consents

consents, sound = Consents(Path(sys.argv[1]), ReferenceConfig()), Path(sys.argv[2]).read_bytes()
number = 0
while True:
    made = consents.add(f"Speaker {number}", "en", sound)
    print("made", made.id, flush=True)
    consents.rename(made.id, f"Renamed {number}")
    if number % 3 == 0:
        print("removing", made.id, flush=True)
        consents.remove(made.id)
        print("removed", made.id, flush=True)
    number += 1
"""


def test_a_process_that_is_killed_loses_none_and_leaves_no_half_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "yes.wav").write_bytes(WAV)
    command = [sys.executable, "-c", WRITER, str(folder), str(tmp_path / "yes.wav")]
    kept: set[str] = set()
    for lines in (1, 4, 7):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told = [process.stdout.readline() for _ in range(lines)]
            process.kill()
            told += process.stdout.readlines()
        for what, consent_id in map(str.split, told):
            (kept.add if what == "made" else kept.discard)(consent_id)
    consents = Consents(folder, ReferenceConfig())
    last = consents.add("After it", "en", WAV)
    known = {one.id for one in consents.all()}
    assert kept <= known - {last.id}
    # At most one more each time: one that was made, or removed, without a word about it.
    assert len(known - kept - {last.id}) <= 3
    assert {path.stem for path in folder.glob("*.recording")} == known
    assert all(path.read_bytes() == WAV for path in folder.glob("*.recording"))

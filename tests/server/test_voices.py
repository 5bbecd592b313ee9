"""Laws of the voices' HTTP API, with OpenAI's own client where it has a call for it."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import BadRequestError, NotFoundError, PermissionDeniedError

from stentor.audio.formats import encode_file
from stentor.audio.load import decode
from stentor.config import ReferenceConfig
from stentor.errors import RequestError
from stentor.request import Audio, SpeechRequest
from stentor.server.app import create_app
from stentor.voices import OPENAI_VOICES, VoiceStore
from tests.server.conftest import Front, Running
from tests.server.fakes import INFO, RATE, Act, config, say, tone, voices

WAV = encode_file(tone(1.0), "wav", RATE)
CODES = np.arange(16).reshape(2, 8)
PATH = "/v1/audio/voices"


def make_voices(request: SpeechRequest) -> Iterator[Act]:
    """Enrolls what comes as it is; a recording of b"bad" is none."""
    if not request.enroll:
        yield from say()(request)
        return
    assert request.reference is not None
    if request.reference.audio == b"bad":
        yield RequestError("the recording is silent: give a recording of speech", param="references")
    elif request.reference.codes is not None:
        yield Audio(np.zeros(0, np.float32), RATE, codes=request.reference.codes)
    else:
        yield Audio(tone(1.0), RATE, codes=np.full((25, 8), 7, np.uint16))


@pytest.fixture
def store(tmp_path: Path) -> VoiceStore:
    return voices(tmp_path)


@pytest.fixture
def server(serve: Callable[..., Running], front_and_port: tuple[Front, int], store: VoiceStore) -> Running:
    running = serve(make_voices)
    front_and_port[0].app = create_app(running.pipeline, INFO, store, config())  # type: ignore[arg-type]
    return running


def create(server: Running, **fields: Any) -> Any:
    form = {"name": "Rosa", "consent": "by letter", "type": "audio_sample", **fields}
    sample = form.pop("audio_sample", WAV)
    return server.http.post(PATH, data=form, files={"audio_sample": ("me.wav", sample, "audio/wav")})


def error(response: Any) -> dict[str, Any]:
    told: dict[str, Any] = response.json()["error"]
    assert set(told) == {"message", "type", "param", "code"}
    return {"status": response.status_code, **told}


def test_voices_are_listed_with_id_and_name(server: Running) -> None:
    create(server, speaker_description="calm")
    default, rosa = server.http.get(PATH).json()["voices"]
    assert (default["id"], default["name"], default["preset"]) == ("default", "default", True)
    assert (rosa["name"], rosa["preset"], rosa["description"]) == ("Rosa", False, "calm")
    assert rosa["id"].startswith("voice_")
    # The list may be open to everybody.
    assert not {"transcript", "consent", "sha256"} & set(rosa)


def test_one_id_may_stand_for_several_voices(server: Running) -> None:
    server.http.headers["X-Request-Id"] = "my-voices"
    create(server)
    create(server, name="Otto")
    first, second = server.pipeline.requests
    assert first.request_id != second.request_id
    assert first.request_id.startswith("my-voices.")


@pytest.mark.parametrize("query", ["?legacy", "?legacy=true", "?legacy=1"])
def test_older_clients_get_strings(server: Running, query: str) -> None:
    made = create(server).json()
    told = server.http.get(PATH + query).json()
    assert told["voices"] == ["default", "Rosa"]
    assert [voice["id"] for voice in told["uploaded_voices"]] == [made["id"]]
    assert isinstance(server.http.get(PATH + "?legacy=false").json()["voices"][0], dict)


def test_openais_client_makes_uses_and_removes_a_voice(server: Running, store: VoiceStore) -> None:
    client = server.openai()
    voice = client.audio.voices.create(name="Rosa", audio_sample=("me.wav", WAV), consent="by letter")
    assert (voice.name, voice.object, voice.type) == ("Rosa", "audio.voice", "audio_sample")
    assert voice.created_at == store.about("Rosa").created_at > 0
    listed = server.http.get(PATH).json()["voices"][-1]
    for named in ("Rosa", {"id": voice.id}, listed):
        client.audio.speech.create(input="Hello.", model="", voice=named)  # type: ignore[arg-type]
        spoken = server.pipeline.requests[-1].reference
        assert spoken is not None
        np.testing.assert_array_equal(spoken.codes, np.full((25, 8), 7))
    gone = client.audio.voices.delete(voice.id)
    assert (gone.id, gone.deleted, gone.object) == (voice.id, True, "audio.voice.deleted")
    with pytest.raises(BadRequestError, match="there is no voice"):
        client.audio.speech.create(input="Hello.", model="", voice="Rosa")


def test_what_is_kept_is_what_was_enrolled(server: Running, store: VoiceStore) -> None:
    told = create(server, ref_text="What I say.", language="en", description="calm").json()
    asked = server.pipeline.requests[-1]
    assert asked.reference is not None
    assert (asked.enroll, asked.reference.audio, asked.reference.text) == (True, WAV, "What I say.")
    kept = store.read("Rosa")
    assert kept.recording is not None
    sound = decode(kept.recording, sample_rate_hz=RATE, max_seconds=9)
    np.testing.assert_allclose(sound, tone(1.0), atol=1 / 16384)
    assert (told["transcript"], told["language"], told["consent"]) == ("What I say.", "en", "by letter")
    voice = server.http.get(f"{PATH}/Rosa").json()
    assert voice == server.http.get(f"{PATH}/{told['id']}").json()
    # The same as OpenAI's clients read it, and as vLLM-Omni's do.
    assert told == {**voice, "success": True, "voice": voice}


@pytest.mark.parametrize("as_form", [True, False])
def test_a_voice_is_made_of_codes(server: Running, store: VoiceStore, as_form: bool) -> None:
    body: dict[str, Any] = {"name": "Rosa", "transcript": "words", "consent": "mine"}
    if as_form:
        body |= {"codes": json.dumps(CODES.tolist())}
        response = server.http.post(PATH, data=body)
    else:
        response = server.http.post(PATH, json={**body, "reference_codes": CODES.tolist()})
    assert response.status_code == 200
    kept = store.read("Rosa")
    np.testing.assert_array_equal(kept.codes, CODES)
    assert kept.recording is None


def test_in_json_a_recording_is_text(server: Running) -> None:
    body = {"name": "Rosa", "ref_audio": "https://example.com/me.wav"}
    assert server.http.post(PATH, json=body).status_code == 200
    assert server.pipeline.requests[-1].reference.audio == "https://example.com/me.wav"  # type: ignore[union-attr]


def test_a_voice_is_renamed_and_described_anew(server: Running) -> None:
    made = create(server, transcript="words").json()["voice"]
    url = f"{PATH}/{made['id']}"
    changed = server.http.patch(url, json={"name": "Rosalind", "transcript": None})
    assert changed.json() == {**made, "name": "Rosalind", "transcript": None}
    assert server.http.patch(url, data={"description": "calm"}).json()["description"] == "calm"
    assert error(server.http.get(f"{PATH}/Rosa"))["status"] == 404


def test_a_transcript_with_a_tag_that_no_request_could_use_is_refused(
    server: Running, front_and_port: tuple[Front, int], tmp_path: Path
) -> None:
    store = VoiceStore(INFO, ReferenceConfig(voices_folder=str(tmp_path / "voices")))
    front_and_port[0].app = create_app(server.pipeline, INFO, store, config())  # type: ignore[arg-type]
    create(server, transcript="Well <|prosody:pause|> then.")
    wrong = "Well <|prosody:paus|> then."
    for refused in (
        server.http.patch(f"{PATH}/Rosa", json={"transcript": wrong}),
        create(server, name="Otto", transcript=wrong),
    ):
        told = error(refused)
        assert (told["status"], told["param"], told["code"]) == (400, "transcript", "unknown_tag")
        assert "<|prosody:pause|>" in told["message"]
    assert store.about("Rosa").transcript == "Well <|prosody:pause|> then."
    assert server.speech(voice="Rosa").status_code == 200


def test_a_preview_is_a_wav_in_that_voice_and_the_same_each_time(server: Running) -> None:
    made = create(server, ref_text="What I say.").json()
    for _ in range(2):
        response = server.http.get(f"{PATH}/Rosa/preview")
        assert response.headers["Content-Type"] == "audio/wav"
        assert len(decode(response.content, sample_rate_hz=RATE, max_seconds=9)) > 0
    first, second = server.pipeline.requests[-2:]
    assert (first.text, first.sampling.seed) == (second.text, second.sampling.seed) == ("What I say.", 0)
    assert first.reference is not None
    assert server.http.get(f"{PATH}/default/preview").status_code == 200
    assert server.pipeline.requests[-1].reference is None
    assert made["name"] == "Rosa"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/preview")]
)
def test_a_voice_that_is_not_there_is_404(server: Running, method: str, path: str) -> None:
    body = {"json": {"language": "en"}} if method == "PATCH" else {}
    told = error(server.http.request(method, f"{PATH}/otto{path}", **body))
    assert (told["status"], told["code"]) == (404, "voice_not_found")
    assert "there are default" in told["message"]


def test_openais_client_hears_of_errors_as_its_own(server: Running) -> None:
    client = server.openai()
    with pytest.raises(NotFoundError):
        client.audio.voices.delete("otto")
    with pytest.raises(PermissionDeniedError, match="part of the checkpoint"):
        client.audio.voices.delete("default")
    with pytest.raises(BadRequestError, match="silent") as caught:
        client.audio.voices.create(name="Rosa", audio_sample=("me.wav", b"bad"), consent="by letter")
    assert caught.value.param == "audio_sample"
    with pytest.raises(BadRequestError, match=r"should be .audio_sample."):
        client.audio.voices.create(name="Rosa", prompt="an old man", type="prompt")


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "name", "missing"),
        ({"name": "a/b", "audio_sample": "x"}, "name", "holds '/'"),
        ({"name": "default", "audio_sample": "x"}, "name", "already"),
        ({"name": "Rosa"}, "audio_sample", "recording, or codes"),
        ({"name": "Rosa", "audio_sample": "x", "codes": [[1]]}, "audio_sample", "give one"),
        ({"name": "Rosa", "codes": [[1, 2], [3]]}, "codes", "equally many"),
        ({"name": "Rosa", "codes": [[2**40]]}, "codes", "equally many"),
        ({"name": "Rosa", "codes": "x"}, "codes", "list"),
        ({"name": 3}, "name", "string"),
        ({"name": "Rosa", "colour": "red"}, "colour", "unknown field"),
        ({"name": "Rosa", "transcript": "a", "ref_text": "b"}, "transcript", "twice"),
        ([1], None, "JSON object"),
    ],
)
def test_a_wrong_body_is_refused_in_words(server: Running, body: Any, param: str | None, words: str) -> None:
    told = error(server.http.post(PATH, json=body))
    assert (told["status"], told["param"]) == (400, param)
    assert words in told["message"]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/json", b"{"),
        ("application/json", b"[" * 100_000),
        ("multipart/form-data; boundary=x", b"nonsense"),
        ("multipart/form-data", b"x"),
        ("text/plain", b"x"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(server: Running, kind: str, content: bytes) -> None:
    told = error(server.http.post(PATH, content=content, headers={"Content-Type": kind}))
    assert told["status"] == 400
    assert ("the form cannot be read" if "form" in kind else "is not valid JSON") in told["message"]


def test_nothing_is_kept_of_a_voice_that_failed(server: Running, store: VoiceStore) -> None:
    assert create(server, audio_sample=b"bad").status_code == 400
    assert store.names() == ("default",)
    assert not server.pipeline.open


def test_the_thirteen_names_can_be_spoken(server: Running) -> None:
    for name in OPENAI_VOICES:
        assert server.speech(voice=name).status_code == 200


def test_the_schema_tells_of_the_form(server: Running) -> None:
    route = server.http.get("/openapi.json").json()["paths"][PATH]["post"]
    content = route["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json"}
    assert content["multipart/form-data"]["schema"]["required"] == ["name"]


def test_what_is_said_about_a_voice_is_bounded_before_the_work(server: Running) -> None:
    told = error(create(server, transcript="x" * 4097))
    assert (told["status"], told["param"]) == (400, "transcript")
    assert not server.pipeline.requests


def test_a_preview_of_a_voice_with_a_blank_transcript_says_a_fixed_sentence(server: Running) -> None:
    made = create(server, transcript=" ").json()
    assert server.http.get(f"{PATH}/{made['id']}/preview").status_code == 200


@pytest.mark.parametrize("path", [PATH, "/v1/audio/voice_consents"])
def test_who_leaves_within_a_body_is_no_error_of_ours(
    server: Running, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    head = "Host: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\n{head}".encode())
    answered = 'stentor_http_responses_total{status="400"}'
    server.pipeline.wait_until(lambda: server.metric(answered) == 1)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_voice_is_kept_though_its_client_has_left(
    serve: Callable[..., Running], front_and_port: tuple[Front, int], store: VoiceStore
) -> None:
    left = threading.Event()

    def script(request: SpeechRequest) -> Iterator[Act]:
        assert left.wait(20)
        yield 0.1  # In which the server learns of it.
        yield from make_voices(request)

    server = serve(script)
    front_and_port[0].app = create_app(server.pipeline, INFO, store, config())  # type: ignore[arg-type]
    body = json.dumps({"name": "Rosa", "codes": CODES.tolist()}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + body)
        wait_until(lambda: bool(server.pipeline.requests))
    left.set()
    wait_until(lambda: "Rosa" in store.names())


def wait_until(happened: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.01)

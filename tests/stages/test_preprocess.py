"""Laws of the first stage: each request becomes a prompt or a failure, and a slow one holds up no other."""

import base64
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from stentor.audio.fetch import ReferenceReader
from stentor.audio.formats import encode_file
from stentor.config import ReferenceConfig
from stentor.errors import ForbiddenError, RequestError
from stentor.request import Array, Prompt, Reference, SamplingParams, SpeechRequest
from stentor.stages import preprocess
from stentor.stages.base import Payload
from stentor.stages.preprocess import PreprocessStage

RATE_HZ = 24000
TONE = (0.3 * np.sin(np.arange(RATE_HZ) / 10)).astype(np.float32)


class Preparer:
    """Makes empty prompts, and keeps the words of their references; a text of "bad" is refused, one of
    "crash" is a defect."""

    def __init__(self) -> None:
        self.words: dict[str, str | None] = {}

    def prepare(self, request: SpeechRequest, waveform: Array | None) -> Prompt:
        if request.reference is not None:
            self.words[request.request_id] = request.reference.text
        if request.text == "bad":
            raise RequestError("bad text", param="input")
        if request.text == "crash":
            raise ZeroDivisionError("oops")
        return Prompt(request, np.zeros(3, np.int32), SamplingParams(), reference_waveform=waveform)


class SlowReader(ReferenceReader):
    """Waits for `gate` when it reads b"slow" or from an address of slow.example."""

    gate = threading.Event()

    def read(self, audio: str | bytes) -> bytes:
        if audio == b"slow" or str(audio).startswith("http://slow.example/"):
            self.gate.wait(60)
            return encode_file(TONE, "wav", RATE_HZ)
        return super().read(audio)


@pytest.fixture
def stage() -> Iterator[PreprocessStage]:
    config = ReferenceConfig(max_seconds=2.0)
    SlowReader.gate = threading.Event()
    made = PreprocessStage(Preparer(), SlowReader(config), RATE_HZ, config)
    yield made
    SlowReader.gate.set()
    made.close()


def ask(
    stage: PreprocessStage, request_id: str, text: str = "hello", audio: str | bytes | None = None
) -> None:
    reference = None if audio is None else Reference(audio=audio)
    stage.add(Payload(request_id, SpeechRequest(request_id, text, reference), last=True))


def drain(stage: PreprocessStage) -> dict[str, Payload]:
    done: dict[str, Payload] = {}
    deadline = time.monotonic() + 60
    while stage.has_work() and time.monotonic() < deadline:
        done |= {payload.request_id: payload for payload in stage.step()}
    assert not stage.has_work()
    return done


def wav(waveform: Array) -> bytes:
    return encode_file(waveform, "wav", RATE_HZ)


def test_each_request_becomes_one_prompt(stage: PreprocessStage) -> None:
    for number in range(3):
        ask(stage, f"r{number}")
    payloads = stage.step()
    assert [payload.request_id for payload in payloads] == ["r0", "r1", "r2"]
    assert all(isinstance(payload.data, Prompt) and payload.last for payload in payloads)
    assert not stage.has_work()


def test_a_bad_request_fails_alone(stage: PreprocessStage) -> None:
    for text in ("bad", "fine", "crash"):
        ask(stage, text, text)
    done = drain(stage)
    assert isinstance(done["fine"].data, Prompt)
    assert done["bad"].failure is not None
    assert (done["bad"].failure.kind, done["bad"].failure.param) == ("RequestError", "input")
    assert done["crash"].failure is not None
    assert done["crash"].failure.kind == "InternalError"
    assert all(payload.last for payload in done.values())


def test_a_recording_reaches_the_prompt_at_the_models_rate(stage: PreprocessStage) -> None:
    ask(stage, "same", audio=wav(TONE))
    ask(stage, "half", audio=encode_file(TONE[::2], "wav", RATE_HZ // 2))
    done = drain(stage)
    for payload in done.values():
        assert isinstance(payload.data, Prompt)
        assert payload.data.reference_waveform is not None
        assert len(payload.data.reference_waveform) == pytest.approx(RATE_HZ, abs=2)
    assert np.abs(done["same"].data.reference_waveform - TONE).max() < 1e-4  # type: ignore[union-attr]


def test_the_recording_itself_travels_no_further(stage: PreprocessStage) -> None:
    ask(stage, "r", audio=wav(TONE))
    prompt = drain(stage)["r"].data
    assert isinstance(prompt, Prompt)
    assert prompt.request == SpeechRequest("r", "hello")


@pytest.mark.parametrize(
    ("audio", "kind", "problem"),
    [
        (b"these are no sounds", "RequestError", "not audio"),
        (b"", "RequestError", "empty"),
        (wav(np.zeros(RATE_HZ, np.float32)), "RequestError", "silent"),
        (wav(TONE[:6000]), "RequestError", "lasts 0.25 s"),
        (wav(np.tile(TONE, 3)), "TooLargeError", "longer than 2 seconds"),
        ("http://127.0.0.1:9/a.wav", "ForbiddenError", "127.0.0.1"),
        ("/etc/passwd", "ForbiddenError", ""),
    ],
)
def test_a_recording_that_is_no_use_is_refused(
    stage: PreprocessStage, audio: str | bytes, kind: str, problem: str
) -> None:
    ask(stage, "r", audio=audio)
    failure = drain(stage)["r"].failure
    assert failure is not None
    assert failure.kind == kind
    assert problem in failure.message


def test_a_slow_recording_delays_only_its_own_request(stage: PreprocessStage) -> None:
    ask(stage, "slow", audio=b"slow")
    for number in range(20):
        ask(stage, f"r{number}")
    assert {payload.request_id for payload in stage.step()} == {f"r{number}" for number in range(20)}
    assert stage.has_work()
    assert stage.stats() == {"references_loading": 1}
    started_s = time.monotonic()
    assert stage.step() == []
    assert time.monotonic() - started_s < 1
    SlowReader.gate.set()
    assert isinstance(drain(stage)["slow"].data, Prompt)


def test_slow_addresses_hold_up_no_recording_that_is_here(stage: PreprocessStage) -> None:
    slow = [f"slow{number}" for number in range(40)]
    for name in slow:
        ask(stage, name, audio=f"http://slow.example/{name}.wav")
    ask(stage, "here", audio=wav(TONE))
    ask(stage, "encoded", audio=base64.b64encode(wav(TONE)).decode())
    # Another address does not wait, either.
    ask(stage, "refused", audio="http://127.0.0.1:9/a.wav")
    done: dict[str, Payload] = {}
    deadline = time.monotonic() + 30
    while len(done) < 3 and time.monotonic() < deadline:
        done |= {payload.request_id: payload for payload in stage.step()}
    assert done.keys() == {"here", "encoded", "refused"}
    assert isinstance(done["here"].data, Prompt)
    SlowReader.gate.set()
    prompts = drain(stage)
    assert prompts.keys() == set(slow)
    assert all(isinstance(payload.data, Prompt) for payload in prompts.values())


def test_an_aborted_request_gives_nothing(stage: PreprocessStage) -> None:
    ask(stage, "slow", audio=b"slow")
    ask(stage, "plain")
    ask(stage, "other")
    stage.abort("slow")
    stage.abort("plain")
    stage.abort("unknown")
    assert list(drain(stage)) == ["other"]
    SlowReader.gate.set()
    assert not stage.has_work()


def test_a_local_file_outside_the_allowed_folder_is_refused(tmp_path: Path, stage: PreprocessStage) -> None:
    (tmp_path / "voice.wav").write_bytes(wav(TONE))
    ask(stage, "r", audio=str(tmp_path / "voice.wav"))
    failure = drain(stage)["r"].failure
    assert failure is not None
    assert failure.kind == ForbiddenError.__name__


def test_a_voice_to_be_is_trimmed_and_checked(
    stage: PreprocessStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def enroll(waveform: Array, rate_hz: int, limit_s: float, *, whole: bool) -> Array:
        asked.append((len(waveform), rate_hz, limit_s, whole))
        return waveform[:500]

    monkeypatch.setattr(preprocess, "enroll", enroll)
    # Longer than a reference may be, and than is looked at.
    recording = wav(np.tile(TONE, 10))
    for name, text in (("with", "words"), ("without", None), ("of a form", " ")):
        request = SpeechRequest(name, "a voice", Reference(audio=recording, text=text), enroll=True)
        stage.add(Payload(name, request, last=True))
    done = drain(stage)
    assert {len(payload.data.reference_waveform) for payload in done.values()} == {500}  # type: ignore[union-attr]
    assert sorted(whole for *_, whole in asked) == [False, False, True]
    assert all(8 * RATE_HZ <= samples < 9.1 * RATE_HZ for samples, *_ in asked)
    assert {call[1:3] for call in asked} == {(RATE_HZ, 2.0)}


def test_a_voice_made_of_nothing_is_refused(stage: PreprocessStage) -> None:
    with pytest.raises(RequestError, match="needs a recording"):
        stage.add(Payload("r", SpeechRequest("r", "a voice", enroll=True), last=True))


class Listener:
    """Hears "tone" in any recording, once its gate is open."""

    max_seconds, max_batch = 2.0, 2

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked = 0

    def transcribe(self, waveforms: Sequence[Array], sample_rate_hz: int) -> list[str]:
        assert sample_rate_hz == RATE_HZ
        self.asked += len(waveforms)
        assert self.gate.wait(60)
        return ["tone"] * len(waveforms)


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.gate.set()


@pytest.fixture
def preparer() -> Preparer:
    return Preparer()


@pytest.fixture
def listening(listener: Listener, preparer: Preparer) -> Iterator[PreprocessStage]:
    config = ReferenceConfig(max_seconds=2.0)
    made = PreprocessStage(preparer, ReferenceReader(config), RATE_HZ, config, listener)
    yield made
    made.close()


def say(stage: PreprocessStage, name: str, reference: Reference, text: str = "hello", **fields: bool) -> None:
    stage.add(Payload(name, SpeechRequest(name, text, reference, **fields), last=True))


def until(stage: PreprocessStage, count: int) -> dict[str, Payload]:
    """What comes out until it is so much."""
    done: dict[str, Payload] = {}
    deadline = time.monotonic() + 60
    while len(done) < count and time.monotonic() < deadline:
        done |= {payload.request_id: payload for payload in stage.step()}
    return done


@pytest.mark.parametrize("blank", [None, "", " \n"])
def test_a_recording_without_words_is_heard_and_they_reach_the_prompt(
    listening: PreprocessStage, listener: Listener, preparer: Preparer, blank: str | None
) -> None:
    listener.gate.set()
    say(listening, "r", Reference(audio=wav(TONE), text=blank))
    payload = drain(listening)["r"]
    assert isinstance(payload.data, Prompt)
    assert payload.data.request == SpeechRequest("r", "hello")
    assert payload.data.reference_waveform is not None
    assert preparer.words == {"r": "tone"}
    assert listening.stats()["recordings_heard"] == 1


def test_hearing_holds_up_no_request_that_needs_none(
    listening: PreprocessStage, listener: Listener, preparer: Preparer
) -> None:
    say(listening, "heard", Reference(audio=wav(TONE)))
    while listener.asked == 0:
        assert listening.step() == []
    say(listening, "told", Reference(audio=wav(TONE), text="my words"))
    say(listening, "codes", Reference(codes=np.ones((3, 8), np.int64)))
    ask(listening, "plain")
    assert until(listening, 3).keys() == {"told", "codes", "plain"}
    assert listening.has_work()
    assert listening.stats()["transcripts_waiting"] == 1
    listener.gate.set()
    assert drain(listening).keys() == {"heard"}
    assert preparer.words == {"heard": "tone", "told": "my words", "codes": None}
    assert listener.asked == 1


def test_what_will_be_refused_is_not_heard_first(listening: PreprocessStage, listener: Listener) -> None:
    say(listening, "r", Reference(audio=wav(TONE)), "bad")
    say(listening, "silent", Reference(audio=wav(np.zeros(RATE_HZ, np.float32))))
    done = drain(listening)
    assert all(payload.failure is not None for payload in done.values())
    assert done.keys() == {"r", "silent"}
    assert listener.asked == 0


def test_an_aborted_request_does_not_wait_for_its_words(
    listening: PreprocessStage, listener: Listener
) -> None:
    say(listening, "r", Reference(audio=wav(TONE)))
    while listener.asked == 0:
        listening.step()
    listening.abort("r")
    assert not listening.has_work()
    listener.gate.set()
    ask(listening, "other")
    assert list(drain(listening)) == ["other"]


@pytest.mark.parametrize(("given", "kept"), [(None, "tone"), ("my words", "my words")])
def test_a_voice_keeps_its_words_as_they_were_given_or_heard(
    listening: PreprocessStage,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    kept: str,
) -> None:
    monkeypatch.setattr(preprocess, "enroll", lambda waveform, *_, **__: waveform)
    listener.gate.set()
    say(listening, "r", Reference(audio=wav(TONE), text=given), enroll=True)
    prompt = drain(listening)["r"].data
    assert isinstance(prompt, Prompt)
    assert prompt.request.reference == Reference(text=kept)

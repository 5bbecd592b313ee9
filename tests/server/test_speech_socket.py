"""`/v1/audio/speech/stream` over a real socket: order, interruption, and nothing left behind."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from stentor.audio.formats import encode_file, to_pcm16
from stentor.errors import RequestError
from stentor.request import SpeechRequest
from tests.server.conftest import Running
from tests.server.fakes import FRAME, RATE, Act, say, tone

Serve = Callable[..., Running]
Message = dict[str, Any] | bytes

TEXT = "The old dog saw the boat. Then it went home. It slept."
SENTENCES = ["The old dog saw the boat. ", "Then it went home. ", "It slept."]


@contextmanager
def session(running: Running, **config: Any) -> Iterator[ClientConnection]:
    """A configured session that streams PCM."""
    with connect(f"ws://127.0.0.1:{running.port}/v1/audio/speech/stream", proxy=None) as socket:
        tell(socket, "session.config", **{"stream_audio": True, "response_format": "pcm", **config})
        configured = hear(socket)
        assert configured["type"] == "session.configured", configured
        yield socket


def tell(socket: ClientConnection, kind: str, **fields: Any) -> None:
    socket.send(json.dumps({"type": kind, **fields}))


def hear(socket: ClientConnection) -> Any:
    message = socket.recv(timeout=20)
    return message if isinstance(message, bytes) else json.loads(message)


def until(socket: ClientConnection, kind: str) -> list[Any]:
    """All messages up to one of that kind."""
    messages = [hear(socket)]
    while not (isinstance(messages[-1], dict) and messages[-1]["type"] == kind):
        messages.append(hear(socket))
    return messages


def audio(messages: list[Any]) -> bytes:
    return b"".join(message for message in messages if isinstance(message, bytes))


def kinds(messages: list[Any]) -> list[str]:
    """The types of the messages; binary ones in a row are one."""
    named = ["audio" if isinstance(message, bytes) else message["type"] for message in messages]
    return [
        kind
        for before, kind in zip(["", *named], named, strict=False)
        if (kind, before) != ("audio", "audio")
    ]


def endless(request: SpeechRequest) -> Iterator[Act]:
    while True:
        yield from say(0.2, finish_reason=None, usage=None)(request)  # type: ignore[arg-type]
        yield 0.01


def test_each_sentence_is_told_and_sounds_as_over_http(serve: Serve) -> None:
    running = serve(say(0.3))
    whole = running.speech(response_format="pcm").content
    with session(running, language="de") as socket:
        for word in TEXT.split(" "):
            tell(socket, "input.text", text=word + " ")
        tell(socket, "input.done")
        messages = until(socket, "session.done")
    assert kinds(messages) == ["audio.start", "audio", "audio.done"] * 3 + ["session.done"]
    assert [request.language for request in running.pipeline.requests] == [None, "de", "de", "de"]
    starts = [
        message for message in messages if isinstance(message, dict) and message["type"] == "audio.start"
    ]
    assert [start["sentence_text"].strip() for start in starts] == [
        sentence.strip() for sentence in SENTENCES
    ]
    assert [(start["sample_rate"], start["channels"], start["sentence_index"]) for start in starts] == [
        (RATE, 1, index) for index in range(3)
    ]
    assert audio(messages) == 3 * whole
    assert messages[-1] == messages[-1] | {"total_sentences": 3, "utterance_index": 0, "cancelled": False}
    done = [message for message in messages if isinstance(message, dict) and message["type"] == "audio.done"]
    assert {(end["total_bytes"], end["error"]) for end in done} == {(len(whole), False)}


def test_a_sentence_is_heard_before_the_text_is_complete(serve: Serve) -> None:
    running = serve(say(0.2))
    with session(running) as socket:
        tell(socket, "input.text", text="The old dog saw the boat. Then it ")
        assert kinds(until(socket, "audio.done")) == ["audio.start", "audio", "audio.done"]
        assert [request.text for request in running.pipeline.requests] == [SENTENCES[0]]
        tell(socket, "input.text", text="went home.")
        tell(socket, "input.done")
        assert until(socket, "session.done")[-1]["total_sentences"] == 2


def test_no_two_sentences_of_a_session_have_one_id_and_each_keeps_its_own(serve: Serve) -> None:
    def script(request: SpeechRequest) -> Iterator[Act]:
        yield from say(0.2, finish_reason=None, usage=None)(request)  # type: ignore[arg-type]
        yield RequestError("no more of this")

    ids = []
    with session(serve(script)) as socket:
        for _ in range(2):
            tell(socket, "input.text", text="It slept.")
            tell(socket, "input.done")
            told = [message for message in until(socket, "session.done") if isinstance(message, dict)]
            assert kinds(told) == ["audio.start", "error", "audio.done", "session.done"]
            ids += {message["id"] for message in told[:-1]}
            tell(socket, "session.config", stream_audio=True, response_format="pcm")
            hear(socket)
    assert len(set(ids)) == len(ids) == 2


def test_a_commit_ends_a_sentence_and_is_answered_when_it_has_been_spoken(serve: Serve) -> None:
    running = serve(say(0.2))
    with session(running) as socket:
        tell(socket, "input.commit", commit_id="nothing yet")
        assert hear(socket)["segment_sentences"] == 0
        tell(socket, "input.text", text="The old dog saw the boat. Then it went")
        tell(socket, "input.commit", commit_id="went")
        messages = until(socket, "input.committed")
        assert kinds(messages) == ["audio.start", "audio", "audio.done"] * 2 + ["input.committed"]
        told = {"commit_id": "went", "segment_index": 1, "segment_sentences": 2, "total_sentences": 2}
        assert messages[-1] == messages[-1] | told
        tell(socket, "input.text", text="home.")
        tell(socket, "input.done")
        assert until(socket, "session.done")[-1]["total_sentences"] == 3
    assert [request.text for request in running.pipeline.requests] == [SENTENCES[0], "Then it went", "home."]


def test_commits_that_nobody_waits_for_come_to_an_end(serve: Serve) -> None:
    with session(serve(endless)) as socket:
        tell(socket, "input.text", text="One sentence without an end")
        for number in range(33):
            tell(socket, "input.commit", commit_id=str(number))
        assert "wait for an input.committed" in until(socket, "error")[-1]["message"]
        tell(socket, "input.commit", commit_id=7)
        assert until(socket, "error")[-1]["error"]["param"] == "commit_id"
        tell(socket, "input.cancel")
        assert until(socket, "session.done")[-1]["cancelled"]


@pytest.mark.parametrize(("mode", "streams"), [("sentence", False), ("token_level", True)])
def test_the_streaming_modes_of_vllm_omni_are_understood(serve: Serve, mode: str, streams: bool) -> None:
    running = serve(say(0.3))
    with connect(f"ws://127.0.0.1:{running.port}/v1/audio/speech/stream", proxy=None) as socket:
        tell(socket, "session.config", streaming_mode=mode, response_format="pcm")
        assert hear(socket)["stream_audio"] is streams


def test_the_next_sentence_is_begun_while_one_is_heard_and_no_more_than_that(serve: Serve) -> None:
    going_on = threading.Event()

    def script(request: SpeechRequest) -> Iterator[Act]:
        first, *rest = say(0.2)(request)
        yield first
        if request.text.startswith("The old"):
            assert going_on.wait(20)
        yield from rest

    running = serve(script)
    with session(running, trim_silence=False) as socket:
        tell(socket, "input.text", text=TEXT)
        tell(socket, "input.done")
        assert hear(socket)["type"] == "audio.start"
        running.pipeline.wait_until(lambda: len(running.pipeline.requests) == 2)
        assert len(running.pipeline.open) == 2
        going_on.set()
        assert until(socket, "session.done")[-1]["total_sentences"] == 3
    assert [request.text for request in running.pipeline.requests] == SENTENCES


def test_one_seed_speaks_all_sentences(serve: Serve) -> None:
    running = serve(say(0.1))
    with session(running, seed=7) as socket:
        tell(socket, "input.text", text=TEXT)
        tell(socket, "input.done")
        until(socket, "session.done")
    assert [request.sampling.seed for request in running.pipeline.requests] == [7, 7, 7]
    with session(running) as socket:
        tell(socket, "input.text", text=TEXT)
        tell(socket, "input.done")
        until(socket, "session.done")
        tell(socket, "session.config", speed=1.5)
        tell(socket, "input.text", text=TEXT)
        tell(socket, "input.done")
        until(socket, "session.done")
    assert len(running.pipeline.requests) == 9
    assert len({request.sampling.seed for request in running.pipeline.requests[3:]}) == 1


def test_whole_files_have_true_sizes(serve: Serve) -> None:
    running = serve(say(0.3))
    with session(running, stream_audio=False, response_format="wav") as socket:
        tell(socket, "input.text", text="The old dog saw the boat.")
        tell(socket, "input.done")
        messages = until(socket, "session.done")
    files = [message for message in messages if isinstance(message, bytes)]
    assert len(files) == 1
    assert files[0] == encode_file(tone(0.3), "wav", RATE)
    assert not running.pipeline.requests[0].stream


def test_an_interruption_is_heard_at_once_and_frees_the_house(serve: Serve) -> None:
    running = serve(endless)
    with session(running) as socket:
        for _ in range(2):
            tell(socket, "input.text", text=TEXT)
            tell(socket, "input.done")
            assert hear(socket)["type"] == "audio.start"
            tell(socket, "input.cancel")
            done = until(socket, "session.done")[-1]
            assert done["cancelled"]
            assert not running.pipeline.open
        running.pipeline.script = say(0.1)
        tell(socket, "input.text", text="It slept.")
        tell(socket, "input.done")
        assert not until(socket, "session.done")[-1]["cancelled"]


@pytest.mark.parametrize("leave", ["session.close", "close", "vanish"])
def test_whoever_leaves_leaves_nothing_behind(serve: Serve, leave: str) -> None:
    running = serve(endless)
    with session(running) as socket:
        tell(socket, "input.text", text=TEXT)
        assert hear(socket)["type"] == "audio.start"
        assert running.pipeline.open
        if leave == "session.close":
            tell(socket, "session.close")
            with pytest.raises(ConnectionClosed) as closed:
                until(socket, "session.done")
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1000
        elif leave == "close":
            socket.close()
        else:
            socket.socket.shutdown(2)
    running.pipeline.wait_until(lambda: not running.pipeline.open)
    running.pipeline.wait_until(lambda: running.metric("stentor_speech_in_flight") == 0)


def test_a_reader_who_does_not_read_is_given_up(serve: Serve) -> None:
    running = serve(endless, write_timeout_s=0.3)
    with session(running) as socket:
        tell(socket, "input.text", text=TEXT)
        running.pipeline.wait_until(lambda: bool(running.pipeline.open))
        # The library reads by itself until its queue is full, and then no more.
        running.pipeline.wait_until(lambda: not running.pipeline.open, timeout_s=20)
        socket.socket.shutdown(2)


def test_the_peers_errors(serve: Serve) -> None:
    def script(request: SpeechRequest) -> Iterator[Act]:
        if request.text.startswith("Then"):
            yield RequestError("a bad text", param="input")
        yield from say(0.1)(request)

    running = serve(script)
    with session(running) as socket:
        tell(socket, "input.text", text=TEXT)
        tell(socket, "input.done")
        messages = until(socket, "session.done")
        assert kinds(messages) == [
            *("audio.start", "audio", "audio.done"),
            *("audio.start", "error", "audio.done"),
            *("audio.start", "audio", "audio.done"),
            "session.done",
        ]
        error = next(message for message in messages if message_type(message) == "error")
        assert error["message"] == error["error"]["message"] == "a bad text"
        assert error["sentence_index"] == 1
        for sent, told in [
            ("{", "not valid JSON"),
            ("[]", "must be a JSON object"),
            ("[" * 100_000, "nested too deeply"),
            ('{"type": "input.audio"}', "is not known"),
            ('{"type": "input.text", "text": 1}', "must be a string"),
            ('{"type": "session.config", "voice": "nobody"}', "there is no voice"),
            ('{"type": "session.config", "tempo": 1}', "unknown field 'tempo'"),
            ('{"type": "session.config", "split_granularity": "word"}', "split_granularity"),
            ('{"type": "session.config", "speed": 9}', "speed is 9"),
        ]:
            socket.send(sent)
            assert told in hear(socket)["message"], sent
        tell(socket, "input.text", text="It slept. And \ud800")
        tell(socket, "session.config")
        assert "input.done" in hear(socket)["message"]


def message_type(message: Message) -> str:
    return "audio" if isinstance(message, bytes) else message["type"]


def test_a_session_begins_with_its_configuration(serve: Serve) -> None:
    running = serve()
    for first in ('{"type": "input.done"}', "nonsense", '{"type": "session.config", "model": "other"}'):
        with connect(f"ws://127.0.0.1:{running.port}/v1/audio/speech/stream", proxy=None) as socket:
            socket.send(first)
            assert hear(socket)["type"] == "error"
            with pytest.raises(ConnectionClosed):
                hear(socket)


def test_a_silent_client_is_hung_up_on_but_not_while_it_listens(serve: Serve) -> None:
    running = serve(say(1.5, chunk=FRAME, delay_s=0.03), socket_idle_timeout_s=0.4)
    with session(running) as socket:
        tell(socket, "input.text", text="It slept.")
        tell(socket, "input.done")
        assert audio(until(socket, "session.done")) == to_pcm16(tone(1.5))
        assert hear(socket)["error"]["code"] == "idle_timeout"
        with pytest.raises(ConnectionClosed) as closed:
            hear(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


def test_text_may_not_run_far_ahead_of_speech(serve: Serve) -> None:
    running = serve(endless, socket_pending_chars=200)
    with session(running) as socket:
        tell(socket, "input.text", text=TEXT)
        assert hear(socket)["type"] == "audio.start"
        tell(socket, "input.text", text="And then. " * 30)
        error = next(
            message for message in iter(lambda: hear(socket), None) if message_type(message) == "error"
        )
        assert "send text as it is needed" in error["message"]
        for _ in range(33):
            tell(socket, "input.done")
            tell(socket, "input.text", text="A.")
        error = next(
            message for message in iter(lambda: hear(socket), None) if message_type(message) == "error"
        )
        assert "wait for a session.done" in error["message"]
    running.pipeline.wait_until(lambda: not running.pipeline.open)


def test_a_full_house_is_told_and_a_place_is_waited_for_between_sentences(serve: Serve) -> None:
    running = serve(say(0.1), max_requests=1)
    with session(running) as socket:
        tell(socket, "input.text", text=TEXT)
        tell(socket, "input.done")
        assert until(socket, "session.done")[-1]["total_sentences"] == 3
        running.pipeline.max_requests = 0
        tell(socket, "input.text", text="It slept.")
        tell(socket, "input.done")
        errors = [message for message in until(socket, "session.done") if message_type(message) == "error"]
    assert [error["error"]["code"] for error in errors] == ["overloaded"]

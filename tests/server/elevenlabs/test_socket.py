"""`stream-input` and `multi-stream-input`, as LiveKit, Pipecat and ElevenLabs' own client use them."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec import structs
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from stentor.audio.formats import to_pcm16
from stentor.audio.load import decode
from stentor.errors import RequestError
from stentor.request import SpeechRequest
from tests.server.conftest import Running
from tests.server.fakes import INFO, RATE, Act, say, spoken_with_codes, tone
from tests.server.test_speech_socket import endless

Serve = Callable[..., Running]

SENTENCES = ["The old dog saw the boat. ", "Then it went home. "]


def opened(running: Running, kind: str, query: str = "output_format=pcm_24000") -> ClientConnection:
    return connect(f"ws://127.0.0.1:{running.port}/v1/text-to-speech/default/{kind}?{query}", proxy=None)


def tell(socket: ClientConnection, **message: Any) -> None:
    socket.send(json.dumps(message))


def hear(socket: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(socket.recv(timeout=20))
    return message


def until_final(socket: ClientConnection, name: str | None = None) -> list[dict[str, Any]]:
    messages = [hear(socket)]
    while not (messages[-1].get("isFinal") and messages[-1].get("contextId") == name):
        messages.append(hear(socket))
    return messages


def until_error(socket: ClientConnection) -> dict[str, Any]:
    """The next error; the audio of other contexts may come before it."""
    return next(message for message in iter(lambda: hear(socket), None) if "error" in message)


def audio(messages: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(message["audio"]) for message in messages if message.get("audio"))


def close_code(socket: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=20)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def test_a_text_in_portions_is_one_stream_and_then_the_connection_ends(serve: Serve) -> None:
    running = serve(say(0.3))
    with opened(running, "stream-input", "output_format=pcm_24000&seed=3&inactivity_timeout=60") as socket:
        tell(
            socket, text=" ", voice_settings={"speed": 1.0}, generation_config={"chunk_length_schedule": [50]}
        )
        for word in "".join(SENTENCES).split():
            tell(socket, text=word + " ", try_trigger_generation=True)
        tell(socket, text="")
        messages = until_final(socket)
        assert close_code(socket) == 1000
    assert audio(messages) == 2 * to_pcm16(tone(0.3))
    assert all(message["alignment"] is None for message in messages)
    assert [request.text for request in running.pipeline.requests] == SENTENCES
    assert {request.sampling.seed for request in running.pipeline.requests} == {3}


def test_sentences_share_one_mp3(serve: Serve) -> None:
    running = serve(say(0.4))
    with opened(running, "stream-input", "output_format=mp3_44100_64") as socket:
        tell(socket, text="".join(SENTENCES))
        tell(socket, text="")
        data = audio(until_final(socket))
    length_s = len(decode(data, sample_rate_hz=RATE, max_seconds=5)) / RATE
    assert length_s == pytest.approx(0.8, abs=0.1)


def test_a_flush_is_heard_before_the_text_ends(serve: Serve) -> None:
    running = serve(say(0.2))
    with opened(running, "stream-input") as socket:
        tell(socket, text="Hello there")
        tell(socket, text=" ", flush=True)
        assert not hear(socket)["isFinal"]
        tell(socket, text="")
        until_final(socket)
    with opened(running, "stream-input", "output_format=pcm_24000&auto_mode=true") as socket:
        tell(socket, text="Hello there")
        assert hear(socket)["audio"]


@pytest.mark.parametrize(
    ("query", "first", "word"),
    [
        ("output_format=mp3", {}, "invalid_output_format"),
        ("model_id=other", {}, "model_not_found"),
        ("", {"text": 5}, "invalid_request"),
        ("", {"text": " ", "voice_settings": {"speed": "fast"}}, "invalid_request"),
    ],
)
def test_an_error_is_told_and_ends_the_connection(
    serve: Serve, query: str, first: dict[str, Any], word: str
) -> None:
    with opened(serve(), "stream-input", query) as socket:
        if first:
            tell(socket, **first)
        told = hear(socket)
        assert (told["error"], told["code"]) == (word, 1008)
        assert close_code(socket) == 1008


def test_a_sentence_that_fails_ends_it_as_well(serve: Serve) -> None:
    def script(_: SpeechRequest) -> Iterator[Act]:
        yield RequestError("a bad text", param="input")

    with opened(serve(script), "stream-input") as socket:
        tell(socket, text="Hello there. ", flush=True)
        told = hear(socket)
        assert (told["message"], told["param"]) == ("a bad text", "text")
        assert close_code(socket) == 1008


def test_contexts_are_apart_and_a_closed_one_still_says_what_it_was_given(serve: Serve) -> None:
    running = serve(say(0.3))
    with opened(running, "multi-stream-input") as socket:
        tell(socket, text="")  # keeps the connection
        for name in ("a", "b"):
            tell(socket, text=" ", context_id=name, voice_settings={"speed": 1.0})
            tell(socket, text=SENTENCES[0], context_id=name)
            tell(socket, text="", context_id=name, flush=True)
            tell(socket, context_id=name, close_context=True)
            messages = until_final(socket, name)
            assert audio(messages) == to_pcm16(tone(0.3))
            assert {message["contextId"] for message in messages} == {name}
        tell(socket, context_id="a", close_context=True)
        tell(socket, text="Hello there.", context_id="c")
        tell(socket, close_socket=True)
        assert audio(until_final(socket, "c"))
        assert close_code(socket) == 1000


def test_a_context_closed_twice_stops_at_once_and_the_others_go_on(serve: Serve) -> None:
    running = serve(endless)
    with opened(running, "multi-stream-input") as socket:
        tell(socket, text="The old dog saw the boat.", context_id="a", flush=True)
        tell(socket, text="Then it went home.", context_id="b", flush=True)
        running.pipeline.wait_until(lambda: len(running.pipeline.open) == 2)
        tell(socket, context_id="a", close_context=True)
        tell(socket, text="More.", context_id="a")
        refused = until_error(socket)
        assert refused["contextId"] == "a"
        tell(socket, context_id="a", close_context=True)
        until_final(socket, "a")
        assert len(running.pipeline.open) == 1
    running.pipeline.wait_until(lambda: not running.pipeline.open)


def test_an_error_of_one_context_ends_no_other(serve: Serve) -> None:
    def script(request: SpeechRequest) -> Iterator[Act]:
        if request.text.startswith("Bad"):
            yield RequestError("a bad text")
        yield from say(0.2)(request)

    with opened(serve(script), "multi-stream-input") as socket:
        tell(socket, text="Bad words are these.", context_id="a", flush=True)
        told = until_error(socket)
        assert (told["message"], told["contextId"]) == ("a bad text", "a")
        tell(socket, text="Hello there.", context_id="b", flush=True)
        assert hear(socket)["contextId"] == "b"
        for number in range(7):
            tell(socket, text="Hello", context_id=f"more {number}")
        refused = until_error(socket)
        assert refused["error"] == "max_character_limit_exceeded"
        tell(socket, text="x", context_id=5)
        assert "must be a string" in until_error(socket)["message"]


def test_one_seed_speaks_all_contexts_of_a_connection(serve: Serve) -> None:
    running = serve(say(0.1))
    with opened(running, "multi-stream-input", "output_format=pcm_24000&language_code=de") as socket:
        for name, settings in {"a": {}, "b": {"seed": None}, "c": {"seed": 7}}.items():
            tell(socket, text=SENTENCES[0], context_id=name, flush=True, **settings)
            tell(socket, context_id=name, close_context=True)
            until_final(socket, name)
    first, second, third = (request.sampling.seed for request in running.pipeline.requests)
    assert first == second != third == 7
    assert {request.language for request in running.pipeline.requests} == {"de"}


def test_a_voice_that_nobody_named_goes_on_from_context_to_context(serve: Serve) -> None:
    running = serve(spoken_with_codes, info=structs.replace(INFO, codec="codec-1"))
    with opened(running, "multi-stream-input") as socket:
        for name in "ab":
            tell(socket, text=SENTENCES[0], context_id=name, flush=True)
            tell(socket, context_id=name, close_context=True)
            until_final(socket, name)
    first, second = (request.reference for request in running.pipeline.requests)
    assert first is None
    assert second is not None
    assert second.text == SENTENCES[0].strip()


def test_a_silence_that_is_no_number_is_one_second(serve: Serve) -> None:
    with opened(serve(), "stream-input", "inactivity_timeout=nan") as socket:
        assert hear(socket)["message"] == "no message came for 1 s"

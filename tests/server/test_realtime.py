"""`/v1/realtime`: through OpenAI's own client, and what it would not send over a bare socket."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from stentor.audio.formats import to_pcm16
from stentor.errors import InternalError
from stentor.request import FinishReason, Reference
from stentor.voices import VoiceStore
from tests.server.conftest import Running
from tests.server.fakes import INFO, RATE, Act, say, spoken_with_codes, tone
from tests.server.test_speech_socket import endless

Serve = Callable[..., Running]

OFFICIAL: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
SAID = [
    "response.created",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.done",
]


@contextmanager
def session(running: Running) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{running.port}/v1/realtime?model=tts-1", proxy=None) as socket:
        assert hear(socket)["type"] == "session.created"
        yield socket


def tell(socket: ClientConnection, kind: str, **fields: Any) -> None:
    socket.send(json.dumps({"type": kind, **fields}))


def hear(socket: ClientConnection) -> dict[str, Any]:
    """The next event, which is one of those that OpenAI's client knows."""
    event: dict[str, Any] = json.loads(socket.recv(timeout=20))
    OFFICIAL.validate_python(event)
    assert event["event_id"]
    return event


def until(socket: ClientConnection, kind: str) -> list[dict[str, Any]]:
    events = [hear(socket)]
    while events[-1]["type"] != kind:
        events.append(hear(socket))
    return events


def message(text: str, role: str = "user") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def say_now(socket: ClientConnection, text: str = "Hello there.", **response: Any) -> None:
    tell(socket, "response.create", response={"conversation": "none", "input": [message(text)], **response})


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(event["type"] for event in events))


def audio(events: list[dict[str, Any]]) -> bytes:
    deltas = [event["delta"] for event in events if event["type"] == "response.output_audio.delta"]
    return b"".join(map(base64.b64decode, deltas))


@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
def test_openais_client_hears_the_audio_of_the_offline_file(serve: Serve) -> None:
    running = serve(say(0.4))
    whole = running.speech(response_format="pcm").content
    with running.openai().realtime.connect(model="gpt-4o-mini-tts") as connection:
        assert connection.recv().type == "session.created"
        output = {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "alloy", "speed": 1.0}
        connection.session.update(
            session={"type": "realtime", "output_modalities": ["audio"], "audio": {"output": output}}
        )
        updated = connection.recv()
        assert updated.type == "session.updated"
        assert updated.session.audio.output.voice == "alloy"
        connection.conversation.item.create(item=message("Hello there."))
        assert [connection.recv().type for _ in range(2)] == [
            "conversation.item.added",
            "conversation.item.done",
        ]
        connection.response.create()
        events = []
        for event in connection:
            events.append(event)
            if event.type == "response.done":
                break
    assert [event.type for event in events if "item" not in event.type or "output" in event.type][:3] == SAID[
        :3
    ]
    ids = {event.response_id for event in events if hasattr(event, "response_id")}
    assert ids == {events[-1].response.id}
    deltas = [event.delta for event in events if event.type == "response.output_audio.delta"]
    assert b"".join(map(base64.b64decode, deltas)) == whole
    assert events[-1].response.status == "completed"
    assert events[-1].response.usage.output_tokens == 34
    assert events[-1].response.output[0].content[0].transcript == "Hello there."


def test_an_answer_out_of_the_conversation_has_exactly_these_events(serve: Serve) -> None:
    running = serve(say(0.3))
    with session(running) as socket:
        say_now(socket, "<|prosody:pause|>Hello there.", metadata={"topic": "greeting"})
        events = until(socket, "response.done")
    assert kinds(events) == SAID
    assert audio(events) == to_pcm16(tone(0.3))
    done = events[-1]["response"]
    assert done["metadata"] == {"topic": "greeting"}
    transcript = [event for event in events if event["type"] == "response.output_audio_transcript.done"]
    assert transcript[0]["transcript"] == "Hello there."
    assert running.pipeline.requests[0].text == "<|prosody:pause|>Hello there."


@pytest.mark.parametrize(("kind", "codec"), [("audio/pcmu", "mulaw"), ("audio/pcma", "alaw")])
def test_telephones_hear_eight_kilohertz(serve: Serve, kind: str, codec: str) -> None:
    from stentor.audio.formats import Encoder
    from stentor.audio.resample import resample

    running = serve(say(0.4))
    with session(running) as socket:
        tell(
            socket,
            "session.update",
            session={"type": "realtime", "audio": {"output": {"format": {"type": kind}}}},
        )
        assert hear(socket)["session"]["audio"]["output"]["format"]["type"] == kind
        say_now(socket)
        heard = audio(until(socket, "response.done"))
    encoder = Encoder(codec, 8000)
    assert heard == encoder.encode(resample(tone(0.4), RATE, 8000)) + encoder.finish()


def test_a_cancelled_response_ends_at_once_and_frees_the_house(serve: Serve) -> None:
    running = serve(endless)
    with session(running) as socket:
        for cancel in ({}, {"response_id": "the response"}):
            tell(socket, "conversation.item.create", item=message("Hello there."))
            tell(socket, "response.create")
            events = until(socket, "response.output_audio.delta")
            response_id = events[-1]["response_id"]
            tell(socket, "response.create")
            refused = until(socket, "error")[-1]
            assert refused["error"]["code"] == "conversation_already_has_active_response"
            tell(socket, "response.cancel", **dict.fromkeys(cancel, response_id))
            done = until(socket, "response.done")
            assert kinds(done)[-4:] == [*SAID[-3:-1], "conversation.item.done", "response.done"]
            assert done[-1]["response"]["status"] == "cancelled"
            assert done[-1]["response"]["status_details"]["reason"] == "client_cancelled"
            assert not running.pipeline.open
        tell(socket, "response.cancel")
        assert hear(socket)["error"]["code"] == "response_cancel_not_active"


def test_who_leaves_while_it_speaks_leaves_nothing_behind(serve: Serve) -> None:
    running = serve(endless)
    with session(running) as socket:
        for _ in range(4):
            say_now(socket)
        until(socket, "response.output_audio.delta")
        say_now(socket)
        assert until(socket, "error")[-1]["error"]["code"] == "conversation_already_has_active_response"
        socket.socket.shutdown(2)
    running.pipeline.wait_until(lambda: not running.pipeline.open)
    running.pipeline.wait_until(lambda: running.metric("stentor_speech_in_flight") == 0)


def test_a_failed_generation_is_a_failed_response_and_not_the_end(serve: Serve) -> None:
    def broken(_: Any) -> Iterator[Act]:
        yield InternalError("the stage has failed")

    running = serve(broken)
    with session(running) as socket:
        say_now(socket)
        events = until(socket, "response.done")
        assert kinds(events) == ["response.created", "response.done"]
        assert events[-1]["response"]["status"] == "failed"
        assert events[-1]["response"]["status_details"]["error"]["message"] == "the stage has failed"
        running.pipeline.max_requests = 0
        say_now(socket)
        assert (
            until(socket, "response.done")[-1]["response"]["status_details"]["error"]["code"] == "overloaded"
        )
        running.pipeline.max_requests = 9
        running.pipeline.script = say(0.1, finish_reason=FinishReason.LENGTH)
        say_now(socket, max_output_tokens=5)
        done = until(socket, "response.done")[-1]["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("incomplete", "max_output_tokens")
        assert running.pipeline.requests[-1].sampling.max_new_tokens == 5


def test_a_voice_that_nobody_named_goes_on_from_response_to_response(serve: Serve) -> None:
    running = serve(spoken_with_codes, info=structs.replace(INFO, codec="codec-1"))
    with session(running) as socket:
        for text in ("One was said.", "Then it went home."):
            say_now(socket, text)
            until(socket, "response.done")
    first, second = running.pipeline.requests
    assert first.reference is None
    assert second.reference is not None
    assert second.reference.text == "One was said."


def test_a_voice_that_was_named_and_not_heard_does_not_end_the_keeping_of_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    nova = Reference(codes=np.ones((40, 8), np.uint16))
    monkeypatch.setattr(VoiceStore, "get", lambda _, name: nova if name == "nova" else None)
    running = serve(spoken_with_codes, info=structs.replace(INFO, codec="codec-1"))
    with session(running) as socket:
        for voice in ("nova", "alloy"):
            tell(
                socket, "session.update", session={"type": "realtime", "audio": {"output": {"voice": voice}}}
            )
            assert hear(socket)["type"] == "session.updated"
        for text in ("One was said.", "Then it went home."):
            say_now(socket, text)
            until(socket, "response.done")
    references = [request.reference for request in running.pipeline.requests]
    assert [reference and reference.text for reference in references] == [None, "One was said."]


def test_the_voice_is_frozen_by_the_first_audio(serve: Serve) -> None:
    running = serve(say(0.1))
    with session(running) as socket:
        update = {"type": "realtime", "audio": {"output": {"voice": "nova", "speed": 1.25}}}
        tell(socket, "session.update", session=update)
        assert hear(socket)["type"] == "session.updated"
        say_now(socket)
        until(socket, "response.done")
        tell(socket, "session.update", session={"type": "realtime", "audio": {"output": {"voice": "onyx"}}})
        assert hear(socket)["error"]["code"] == "cannot_update_voice"
        tell(socket, "session.update", session={"type": "realtime", "audio": {"output": {"speed": 0.5}}})
        output = hear(socket)["session"]["audio"]["output"]
        assert (output["voice"], output["speed"]) == ("nova", 0.5)
        say_now(socket)
        assert len(audio(until(socket, "response.done"))) == 2 * 2 * round(0.1 * RATE)
    assert len({request.sampling.seed for request in running.pipeline.requests}) == 1


def test_a_voice_that_one_response_had_first_is_that_of_the_session(serve: Serve) -> None:
    def ask(voice: str) -> None:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi there."}]}
        response = {"conversation": "none", "input": [item], "audio": {"output": {"voice": voice}}}
        tell(socket, "response.create", response=response)

    with session(serve(say(0.1))) as socket:
        ask("nova")
        until(socket, "response.done")
        tell(socket, "session.update", session={"type": "realtime", "instructions": "sad"})
        assert hear(socket)["session"]["audio"]["output"]["voice"] == "nova"
        ask("onyx")
        assert hear(socket)["error"]["code"] == "cannot_update_voice"


def test_items_are_said_once_in_order_and_can_be_looked_up(serve: Serve) -> None:
    running = serve(say(0.1))
    with session(running) as socket:
        tell(socket, "conversation.item.create", item={**message("You are kind.", "system"), "id": "item_s"})
        tell(socket, "conversation.item.create", item={**message("Hello"), "id": "item_1"})
        tell(socket, "conversation.item.create", item=message("there."))
        added = [
            event for event in (hear(socket) for _ in range(6)) if event["type"] == "conversation.item.added"
        ]
        assert [event["previous_item_id"] for event in added][:3] == [None, "item_s", "item_1"]
        tell(socket, "response.create")
        until(socket, "response.done")
        assert running.pipeline.requests[-1].text == "Hello there."
        tell(socket, "response.create")
        assert "no text to say" in hear(socket)["error"]["message"]
        tell(socket, "conversation.item.retrieve", item_id="item_1")
        assert hear(socket)["item"]["content"][0]["text"] == "Hello"
        tell(socket, "conversation.item.truncate", item_id="item_1", content_index=0, audio_end_ms=40)
        assert hear(socket)["audio_end_ms"] == 40
        tell(socket, "conversation.item.delete", item_id="item_1")
        assert hear(socket)["item_id"] == "item_1"
        tell(socket, "conversation.item.delete", item_id="item_1", event_id="mine")
        error = hear(socket)["error"]
        assert (error["code"], error["event_id"]) == ("item_not_found", "mine")


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"type": "input_audio_buffer.append", "audio": ""}, "this server speaks"),
        ({"type": "session.update"}, "session"),
        ({"type": "session.update", "session": {"type": "transcription"}}, "session.type"),
        (
            {"type": "session.update", "session": {"audio": {"output": {"speed": 2}}}},
            "session.audio.output.speed",
        ),
        (
            {"type": "session.update", "session": {"audio": {"output": {"voice": "nobody"}}}},
            "there is no voice",
        ),
        (
            {"type": "session.update", "session": {"audio": {"output": {"format": {"type": "audio/mp3"}}}}},
            "format",
        ),
        (
            {
                "type": "session.update",
                "session": {"audio": {"output": {"format": {"type": "audio/pcm", "rate": 8000}}}},
            },
            "audio/pcm has a rate of 24000, not 8000",
        ),
        ({"type": "session.update", "session": {"output_modalities": ["text"]}}, "session.output_modalities"),
        (
            {"type": "conversation.item.create", "item": {**message("Hi."), "more": "x" * 65_536}},
            "at most 65536 are allowed",
        ),
        (
            {"type": "response.create", "response": {"input": [message("Hi.")], "max_output_tokens": 0}},
            "max_new_tokens is 0",
        ),
        ({"type": "conversation.item.create", "item": {"type": "function_call"}}, "item"),
        ({"type": "response.create", "response": {"input": []}}, "no text to say"),
        ({"type": "response.create", "response": 5}, "response"),
        ({"type": "response.create", "response": {"input": [message("x" * 5000)]}}, "5000 characters"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_session_goes_on(
    serve: Serve, event: dict[str, Any], told: str
) -> None:
    with session(serve(say(0.1))) as socket:
        tell(socket, **{"kind": event["type"], **{k: v for k, v in event.items() if k != "type"}})
        assert told in hear(socket)["error"]["message"]
        say_now(socket)
        assert until(socket, "response.done")[-1]["response"]["status"] == "completed"


def test_a_model_that_is_not_served_is_refused(serve: Serve) -> None:
    running = serve()
    with connect(f"ws://127.0.0.1:{running.port}/v1/realtime?model=other", proxy=None) as socket:
        assert hear(socket)["error"]["code"] == "model_not_found"
        with pytest.raises(ConnectionClosed):
            hear(socket)


@pytest.mark.parametrize(
    "audio", [None, {"output": None}, {"output": {"format": None, "voice": None, "speed": None}}], ids=str
)
def test_null_leaves_the_sound_as_it_is(serve: Serve, audio: Any) -> None:
    with session(serve(say(0.1))) as socket:
        tell(socket, "session.update", session={"type": "realtime", "audio": audio})
        assert hear(socket)["session"]["audio"]["output"]["format"] == {"type": "audio/pcm", "rate": RATE}
        say_now(socket, audio=audio)
        assert until(socket, "response.done")[-1]["response"]["status"] == "completed"


def test_a_format_is_told_with_its_own_rate(serve: Serve) -> None:
    with session(serve()) as socket:
        output = {"format": {"type": "audio/pcmu"}}
        tell(socket, "session.update", session={"type": "realtime", "audio": {"output": output}})
        assert hear(socket)["session"]["audio"]["output"]["format"] == {"type": "audio/pcmu", "rate": 8000}


def test_what_is_too_long_is_not_in_the_way_of_what_comes_next(serve: Serve) -> None:
    running = serve(say(0.1))
    with session(running) as socket:
        for text in ("Hello there. " * 400, "It slept."):
            tell(socket, "conversation.item.create", item=message(text))
            until(socket, "conversation.item.done")
            tell(socket, "response.create")
            events = until(socket, "response.done" if text == "It slept." else "error")
        assert events[-1]["response"]["status"] == "completed"
    assert [request.text for request in running.pipeline.requests] == ["It slept."]


def test_what_a_full_house_refused_is_said_by_the_next_response(serve: Serve) -> None:
    running = serve(say(0.1))
    with session(running) as socket:
        for name in ("one", "gone", "two"):
            tell(socket, "conversation.item.create", item={**message(f"Number {name}."), "id": name})
            until(socket, "conversation.item.done")
        running.pipeline.max_requests = 0
        tell(socket, "response.create")
        assert until(socket, "response.done")[-1]["response"]["status"] == "failed"
        running.pipeline.max_requests = 1
        tell(socket, "conversation.item.delete", item_id="gone")
        assert hear(socket)["type"] == "conversation.item.deleted"
        tell(socket, "response.create")
        assert until(socket, "response.done")[-1]["response"]["status"] == "completed"
        tell(socket, "response.create")
        assert hear(socket)["type"] == "error"
    assert [request.text for request in running.pipeline.requests] == ["Number one. Number two."]

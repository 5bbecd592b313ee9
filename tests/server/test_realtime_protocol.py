import pytest

from stentor.errors import RequestError
from stentor.server.realtime_protocol import AudioOutput, MessageItem, SessionUpdate, merged, no_text, read


def test_an_update_changes_what_it_names_and_nothing_else() -> None:
    session = {"model": "m", "audio": {"output": {"voice": {"id": "a"}, "speed": 1.0}}, "instructions": ""}
    update = read(SessionUpdate, {"type": "realtime", "audio": {"output": {"voice": {"id": "b"}}}}, "session")
    assert merged(session, update)["audio"]["output"] == {"voice": {"id": "b"}, "speed": 1.0}
    assert merged(session, update)["model"] == "m"
    assert session["audio"]["output"]["voice"] == {"id": "a"}


def test_a_wrong_field_is_named_where_it_stands() -> None:
    with pytest.raises(RequestError) as refused:
        read(SessionUpdate, {"audio": {"output": {"voice": 5}}}, "session")
    assert refused.value.param == "session.audio.output.voice"
    with pytest.raises(RequestError) as refused:
        read(AudioOutput, {"speed": 0.1}, "output")
    assert refused.value.param == "output.speed"


def test_what_is_not_for_a_speaker_is_let_pass() -> None:
    fields = {"type": "realtime", "tools": [], "audio": {"input": {"turn_detection": None}}}
    assert read(SessionUpdate, fields, "session").audio is not None


def test_the_text_of_an_item_is_that_of_its_parts() -> None:
    parts = [
        {"type": "input_text", "text": "Hello"},
        {"type": "input_audio"},
        {"type": "text", "text": "there."},
    ]
    item = read(MessageItem, {"type": "message", "role": "user", "content": parts}, "item")
    assert item.text == "Hello there."


def test_nothing_to_say_is_told_with_what_to_send() -> None:
    assert "conversation.item.create" in no_text().message

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stentor.errors import RequestError, TooLargeError
from stentor.server.wyoming.wire import Event, read, to_bytes

DATA = st.dictionaries(st.text(max_size=5), st.text(max_size=10) | st.integers(-99, 99), max_size=4)


def events(data: bytes, max_bytes: int = 1000) -> list[Event]:
    async def run() -> list[Event]:
        reader = asyncio.StreamReader(limit=max_bytes)
        reader.feed_data(data)
        reader.feed_eof()
        found = []
        while (event := await read(reader, max_bytes)) is not None:
            found.append(event)
        return found

    return asyncio.run(run())


@given(st.lists(st.builds(Event, st.text(min_size=1, max_size=9), DATA, st.binary(max_size=50)), max_size=4))
def test_events_are_read_as_they_were_written(sent: list[Event]) -> None:
    assert events(b"".join(map(to_bytes, sent))) == sent


def test_data_may_stand_in_the_line_as_well() -> None:
    (event,) = events(b'{"type": "synthesize", "data": {"a": 1}, "data_length": 8}\n{"b": 2}')
    assert event == Event("synthesize", {"a": 1, "b": 2})


def test_a_half_event_is_none() -> None:
    assert events(b'{"type": "a", "data_length": 8}\n{"b"') == []


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"hello\n", RequestError),
        (b"[]\n", RequestError),
        (b"{}\n", RequestError),
        (b'{"type": "a", "data": []}\n{', RequestError),
        (b'{"type": "a", "data": [1]}\n', RequestError),
        (b'{"type": "a", "data_length": -1}\n', RequestError),
        (b'{"type": "a", "payload_length": "9"}\n', RequestError),
        (b'{"type": "a", "payload_length": 1001}\n', TooLargeError),
        (b'{"type": "' + b"a" * 2000 + b'"}\n', TooLargeError),
    ],
)
def test_what_is_no_event_or_too_large_is_refused(data: bytes, kind: type[RequestError]) -> None:
    with pytest.raises(kind):
        events(data)

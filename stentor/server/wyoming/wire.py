"""Knows Wyoming's events as bytes: a line of JSON, then more JSON, then a payload, each of a stated length.

https://github.com/OHF-Voice/wyoming#format. Its own library reads events of any length into memory.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from stentor.errors import RequestError, TooLargeError


@dataclass(frozen=True)
class Event:
    """One event."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""


def to_bytes(event: Event) -> bytes:
    """An event as it is sent."""
    data = json.dumps(event.data).encode() if event.data else b""
    header: dict[str, Any] = {"type": event.type, "version": "1.0.0"}
    if data:
        header["data_length"] = len(data)
    if event.payload:
        header["payload_length"] = len(event.payload)
    return json.dumps(header).encode() + b"\n" + data + event.payload


async def read(reader: asyncio.StreamReader, max_bytes: int) -> Event | None:
    """The next event; None if there are no more.

    Raises:
        TooLargeError: a part of it has more than `max_bytes`, or more than the reader's own limit.
        RequestError: it is no event. What follows cannot be read after either.
    """
    try:
        line = await reader.readline()
    except ValueError:  # the reader's limit
        raise TooLargeError(f"the first line of an event may have {max_bytes} bytes") from None
    if not line:
        return None
    header = _object(line)
    try:
        extra = await _part(reader, header, "data_length", max_bytes)
        payload = await _part(reader, header, "payload_length", max_bytes)
    except asyncio.IncompleteReadError:
        return None
    inline = header.get("data") or {}
    data = _object(extra) if extra else {}
    if not isinstance(header.get("type"), str) or not isinstance(inline, dict):
        raise RequestError("an event needs a type, and data that is an object")
    return Event(header["type"], {**inline, **data}, payload)


async def _part(reader: asyncio.StreamReader, header: dict[str, Any], name: str, max_bytes: int) -> bytes:
    length = header.get(name) or 0
    if not isinstance(length, int) or length < 0:
        raise RequestError(f"{name} must be a whole number")
    if length > max_bytes:
        raise TooLargeError(f"{name} is {length}, but may be {max_bytes}")
    return await reader.readexactly(length)


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RequestError("an event must be a JSON object")
    return value

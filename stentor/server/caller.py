"""Knows who is being answered: the key that a connection came with, for whatever runs on its behalf."""

from contextvars import ContextVar
from dataclasses import dataclass, field

from stentor.server.keys import Key

# Who is asked for no key, all of them together.
ANYBODY = Key("", b"")


@dataclass
class Caller:
    """One HTTP request or WebSocket; `key` is set once it is known, `headers` are those of tracing."""

    request_id: str = ""
    key: Key = ANYBODY
    trace: dict[str, str] = field(default_factory=dict)


_CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current() -> Caller:
    """The caller on whose behalf this code runs; a nameless one outside of a connection."""
    return _CALLER.get() or Caller()


def enter(caller: Caller) -> None:
    """Say that the rest of this task, and whatever it starts, runs for `caller`."""
    _CALLER.set(caller)

"""Laws of the exception tree and of its form on the wire."""

import inspect

import msgspec
import pytest

from stentor import errors
from stentor.errors import (
    CheckpointError,
    ConfigError,
    Failure,
    InternalError,
    NotFoundError,
    OverloadedError,
    RequestError,
    StentorError,
    from_failure,
    summary,
    to_failure,
)

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, StentorError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_survives_the_wire(kind: type[StentorError]) -> None:
    error = (
        kind("mend it so")
        if issubclass(kind, OverloadedError)
        else kind("mend it so", param="voice", code="gone")
    )
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(to_failure(error)), type=Failure)
    back = from_failure(wire)
    assert type(back) is kind
    assert (back.message, back.param, back.code) == (error.message, error.param, error.code)
    assert str(back) == "mend it so"


def test_a_foreign_exception_becomes_an_internal_error_that_names_it() -> None:
    back = from_failure(to_failure(KeyError("weights")))
    assert type(back) is InternalError
    assert "KeyError" in back.message
    assert "weights" in back.message


def test_an_unknown_kind_becomes_an_internal_error() -> None:
    assert type(from_failure(Failure("FutureError", "?"))) is InternalError


def test_a_log_does_not_quote_the_caller() -> None:
    secret = "my diary"
    assert (
        summary(RequestError(f"no such tag: {secret}", param="input", code="tag")) == "RequestError input tag"
    )
    assert summary(InternalError("a worker died")) == "a worker died"


def test_what_the_caller_can_mend_is_a_request_error() -> None:
    assert issubclass(NotFoundError, RequestError)
    assert not issubclass(OverloadedError, RequestError)
    assert not issubclass(InternalError, RequestError)
    assert issubclass(CheckpointError, ConfigError)


def test_every_kind_is_drawn_in_the_tree_at_the_top() -> None:
    for kind in KINDS:
        assert kind.__name__ in (errors.__doc__ or "")

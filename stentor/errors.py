"""What can go wrong, as one tree of exceptions whose messages say how to mend it.

    StentorError
    ├── ConfigError            a setting is wrong or does not fit the machine
    │   └── CheckpointError    a checkpoint is incomplete, damaged or of another format
    ├── RequestError           the request cannot be served as it stands (the caller's to mend)
    │   ├── NotFoundError      it names a voice, a model or a file that does not exist
    │   ├── ForbiddenError     it points to a file or an address that this server may not read
    │   └── TooLargeError      it is longer than the configured limit
    ├── OverloadedError        every place in the queue is taken; try again later
    ├── AbortedError           the caller went away or asked to stop
    └── InternalError          our own fault: a worker died or a stage failed

Errors cross process boundaries as `Failure` records (`to_failure`, `from_failure`), never as pickles.
"""

import msgspec


class StentorError(Exception):
    """Base of everything Stentor raises on purpose; `param` names the offending field, if there is one."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class ConfigError(StentorError):
    """A setting is wrong or does not fit this machine."""


class CheckpointError(ConfigError):
    """A checkpoint is incomplete, damaged or of another format."""


class RequestError(StentorError):
    """The request cannot be served as it stands."""


class NotFoundError(RequestError):
    """The request names a voice, a model or a file that does not exist."""


class ForbiddenError(RequestError):
    """The request points to a file or an address that this server may not read."""


class TooLargeError(RequestError):
    """The request is longer than the configured limit."""


class OverloadedError(StentorError):
    """Every place in the queue is taken; `retry_after_s` is a fair time to wait."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message, code="overloaded")
        self.retry_after_s = retry_after_s


class AbortedError(StentorError):
    """The caller went away or asked to stop."""


class InternalError(StentorError):
    """Our own fault: a worker died or a stage failed."""


class Failure(msgspec.Struct, frozen=True):
    """An error on the wire: the class's name and its fields."""

    kind: str
    message: str
    param: str | None = None
    code: str | None = None


_KINDS: dict[str, type[StentorError]] = {
    kind.__name__: kind
    for kind in (
        ConfigError,
        CheckpointError,
        RequestError,
        NotFoundError,
        ForbiddenError,
        TooLargeError,
        AbortedError,
        InternalError,
    )
}


def to_failure(error: BaseException) -> Failure:
    """Describe `error` for the wire; whatever is not ours becomes an InternalError that names its class."""
    if isinstance(error, StentorError):
        return Failure(type(error).__name__, error.message, error.param, error.code)
    return Failure(InternalError.__name__, f"{type(error).__name__}: {error}")


def from_failure(failure: Failure) -> StentorError:
    """Rebuild the exception that `to_failure` described."""
    if failure.kind == OverloadedError.__name__:
        return OverloadedError(failure.message)
    kind = _KINDS.get(failure.kind, InternalError)
    return kind(failure.message, param=failure.param, code=failure.code)

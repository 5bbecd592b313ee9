"""What can go wrong, as one tree of exceptions whose messages say how to mend it.

    StentorError
    ├── ConfigError            a setting is wrong or does not fit the machine
    │   └── CheckpointError    a checkpoint is incomplete, damaged or of another format
    ├── RequestError           the request cannot be served as it stands (the caller's to mend)
    │   ├── NotFoundError      it names a voice, a model or a file that does not exist
    │   ├── ForbiddenError     it points to a file or an address that this server may not read
    │   └── TooLargeError      it is longer than the configured limit
    ├── AuthenticationError    no API key, or one that is not known
    ├── OverloadedError        every place in the queue is taken; try again later
    │   └── RateLimitedError   this caller has had its share; try again later
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


class AuthenticationError(StentorError):
    """No API key, or one that is not known."""


class OverloadedError(StentorError):
    """Every place in the queue is taken; `retry_after_s` is a fair time to wait."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0, code: str = "overloaded") -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class RateLimitedError(OverloadedError):
    """This caller has had its share; `retry_after_s` says when there is more."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s, code="rate_limit_exceeded")


class AbortedError(StentorError):
    """The caller went away or asked to stop."""


class InternalError(StentorError):
    """Our own fault: a worker died or a stage failed."""


def summary(error: BaseException) -> str:
    """What a log may say of an error: a message to the caller may quote what they wrote, so not that one."""
    if isinstance(error, RequestError):
        return " ".join(filter(None, (type(error).__name__, error.param, error.code)))
    return str(error)


class Failure(msgspec.Struct, frozen=True):
    """An error on the wire: the class's name and its fields."""

    kind: str
    message: str
    param: str | None = None
    code: str | None = None


_KINDS = {
    name: kind
    for name, kind in list(globals().items())
    if isinstance(kind, type) and issubclass(kind, StentorError)
}


def to_failure(error: BaseException) -> Failure:
    """Describe `error` for the wire; whatever is not ours becomes an InternalError that names its class."""
    if isinstance(error, StentorError):
        return Failure(type(error).__name__, error.message, error.param, error.code)
    return Failure(InternalError.__name__, f"{type(error).__name__}: {error}")


def from_failure(failure: Failure) -> StentorError:
    """Rebuild the exception that `to_failure` described."""
    error = _KINDS.get(failure.kind, InternalError)(failure.message)
    error.param, error.code = failure.param, failure.code
    return error

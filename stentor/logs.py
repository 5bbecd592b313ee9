"""Knows how log lines look: text for people or JSON for machines, each with the id of its request."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

# The request that the running code serves; None outside of one.
REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)


def setup(level: str | int, format: str, process: str = "") -> None:
    """Send the process's log to stderr; `format` is 'text' or 'json', `process` a name for its lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if format == "json" else TextFormatter(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def current_format() -> str:
    """The format that `setup` was given in this process; 'text' if it was not called."""
    formatters = [handler.formatter for handler in logging.getLogger().handlers]
    return "json" if any(isinstance(formatter, JsonFormatter) for formatter in formatters) else "text"


def fields(**values: Any) -> dict[str, Any]:
    """`extra` of a log call: values that a machine reads as they are; None is left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


class TextFormatter(logging.Formatter):
    """One line: time, level, who, what. What a client sent cannot begin a line of its own."""

    def __init__(self, process: str = "") -> None:
        who = process or "%(name)s"
        super().__init__(f"%(asctime)s %(levelname)s {who}: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the base class's name)
        line = super().formatMessage(record)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, request_id, the fields, the exception."""

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._process:
            line["worker"] = self._process
        if REQUEST_ID.get() is not None:
            line["request_id"] = REQUEST_ID.get()
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)

"""Laws of the log: one line each, readable by machines when asked, and nobody else writes into it."""

import json
import logging

import pytest

from stentor import logs
from stentor.logs import JsonFormatter, TextFormatter, fields


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("stentor.some", logging.INFO, __file__, 1, message, args, None)
    made.__dict__.update(extra)
    return made


def test_a_json_line_has_the_message_the_fields_and_the_request() -> None:
    token = logs.REQUEST_ID.set("abc")
    try:
        line = JsonFormatter().format(record("done in %d s", 3, **fields(rtf=0.5, key=None)))
    finally:
        logs.REQUEST_ID.reset(token)
    told = json.loads(line)
    assert told["message"] == "done in 3 s"
    assert (told["level"], told["logger"], told["rtf"], told["request_id"]) == (
        "info",
        "stentor.some",
        0.5,
        "abc",
    )
    assert "key" not in told
    assert told["time"].endswith("+00:00")
    assert "worker" not in told


def test_a_worker_names_itself() -> None:
    assert json.loads(JsonFormatter("engine").format(record("up")))["worker"] == "engine"
    assert " engine: up" in TextFormatter("engine").format(record("up"))


def test_an_exception_is_part_of_its_json_line() -> None:
    try:
        raise KeyError("gone")
    except KeyError as error:
        broken = record("failed")
        broken.exc_info = (KeyError, error, error.__traceback__)
    line = JsonFormatter().format(broken)
    assert "\n" not in line
    assert "KeyError: 'gone'" in json.loads(line)["exception"]


@pytest.mark.parametrize("path", ["/x\n2026-01-01 INFO root: all is well", "/\x1b[31mred", "/\ud800", "/\r"])
def test_what_a_client_sends_begins_no_line_of_its_own(path: str) -> None:
    line = TextFormatter().format(record("GET %s", path))
    assert line.isprintable()
    assert json.loads(JsonFormatter().format(record("GET %s", path)))["message"] == f"GET {path}"


@pytest.mark.parametrize("format", ["text", "json"])
def test_the_format_is_known_to_whoever_starts_workers(
    format: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers = []
    try:
        logs.setup("INFO", format)
        assert logs.current_format() == format
        logging.getLogger("stentor.x").info("hello")
        told = capsys.readouterr().err
    finally:
        root.handlers = before
        root.setLevel(level)
    assert told.startswith("{") is (format == "json")
    assert "hello" in told

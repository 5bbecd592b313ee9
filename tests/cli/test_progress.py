"""Laws of the progress line: rewritten on a terminal, silent elsewhere."""

import io

from stentor.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_written_where_nobody_watches() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.show("loading")
    assert stream.getvalue() == ""


def test_the_line_is_rewritten_and_wiped() -> None:
    stream = Terminal()
    with Progress(stream) as progress:
        progress.show("a long first text")
        progress.show("short")
    written = stream.getvalue().split("\r")
    assert written[1].startswith("a long first text (")
    assert written[2].startswith("short (")
    assert len(written[2]) == len(written[1])
    assert written[3].strip() == ""

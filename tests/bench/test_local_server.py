"""Laws of the server for a while: a failed start says why, a stopped one is gone."""

from pathlib import Path

import pytest

from stentor.bench.local_server import LocalServer
from stentor.errors import InternalError


def test_a_model_that_cannot_be_loaded_ends_the_command_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="did not start") as caught, LocalServer([str(tmp_path)]):
        pass
    assert "config.json" in caught.value.message
    assert "Traceback" not in caught.value.message


def test_a_server_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="did not start"), LocalServer(timeout_s=0.2):
        pass

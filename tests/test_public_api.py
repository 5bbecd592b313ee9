"""Laws of the public surface: exact, documented, and free until it is used."""

import subprocess
import sys

import pytest

import stentor


def test_all_names_exist_and_are_documented() -> None:
    assert set(stentor.__all__) == {*stentor._HOMES, "__version__"}
    for name in stentor.__all__:
        public = getattr(stentor, name)
        if not name.startswith("__"):
            assert public.__doc__, f"{name} has no docstring"
            assert public.__name__ == name


def test_dir_shows_the_public_names_only() -> None:
    assert dir(stentor) == sorted(stentor.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'speek'"):
        _ = stentor.speek


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after this statement."""
    script = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_no_framework() -> None:
    loaded = modules_after("import stentor")
    assert not loaded & {"torch", "numpy", "transformers", "fastapi", "uvicorn", "msgspec"}


def test_the_facade_loads_no_framework_before_it_is_started() -> None:
    loaded = modules_after("from stentor import TTS")
    assert not loaded & {"torch", "transformers", "fastapi", "uvicorn"}


def test_the_command_line_loads_no_framework_to_show_its_help() -> None:
    loaded = modules_after("import stentor.cli.main")
    assert not loaded & {"torch", "transformers", "fastapi", "uvicorn", "zmq", "av"}

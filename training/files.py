"""Knows how a file appears whole or not at all, whoever else writes it, and however a run ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name when all is written; every process writes one of its own."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_state(path: Path, **state: object) -> None:
    """Writes what `torch.load` reads."""
    with whole(path) as file:
        torch.save(state, file)

"""The fields of a JSON file, read by type, with errors that name the file and the field."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stentor.errors import CheckpointError

T = TypeVar("T")


@dataclass(frozen=True)
class Fields:
    """The fields of a JSON object; `prefix` is the path to it within the file."""

    path: Path
    values: Mapping[str, Any]
    prefix: str = ""

    @classmethod
    def read(cls, path: Path) -> "Fields":
        """Raises CheckpointError if there is no such file or it is not a JSON object."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise CheckpointError(f"{path}: damaged, no JSON: {error}") from None
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: damaged: it is no JSON object")
        return cls(path, values)

    def get(self, name: str, kind: type[T], default: T | None = None) -> T:
        """The field's value; null counts as absent, and an integer is a float too.

        Raises:
            CheckpointError: it is of another type, or absent without a default.
        """
        value = self.values.get(name)
        if value is None:
            if default is None:
                raise self.error(f"{self.prefix}{name} is missing")
            return default
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self.error(f"{self.prefix}{name} is {value!r}; it must be of type {kind.__name__}")
        return value

    def size(self, name: str, default: int | None = None) -> int:
        """A field that counts something: an integer of at least 1."""
        value = self.get(name, int, default)
        if value < 1:
            raise self.error(f"{self.prefix}{name} is {value}; it must be at least 1")
        return value

    def sizes(self, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """A field that lists counts: at least one integer, each at least 1."""
        values = tuple(self.get(name, list, list(default) or None))
        if not values or not all(type(value) is int and value >= 1 for value in values):
            raise self.error(f"{self.prefix}{name} is {list(values)}; it must list integers of at least 1")
        return values

    def section(self, name: str) -> "Fields":
        """The fields of an object within."""
        return Fields(self.path, self.get(name, dict), f"{self.prefix}{name}.")

    def error(self, problem: str) -> CheckpointError:
        """The error that says what is wrong with this file."""
        return CheckpointError(f"{self.path}: {problem}")

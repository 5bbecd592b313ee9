"""The tensors of a checkpoint folder: which there are, whether the model wants just these, and their values.

Names and shapes come from the headers of the safetensors files, so that checking a checkpoint costs neither
its reading nor torch (format: https://huggingface.co/docs/safetensors).
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from stentor.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

INDEX = "model.safetensors.index.json"
# More would hide the rest of the message.
_NAMED = 10
_MEND = "download or copy it again"


class Weights(Protocol):
    """Where a model's tensors come from: a `Checkpoint`, or random numbers."""

    @property
    def shapes(self) -> Shapes:
        """Every tensor there is."""

    def tensor(self, name: str) -> "Tensor":
        """One tensor, in whatever dtype and on whatever device it comes. Raises CheckpointError."""


@dataclass(frozen=True)
class Checkpoint:
    """The safetensors files of a folder; `files` says what is where. `open_checkpoint` makes it."""

    folder: Path
    shapes: Shapes
    files: Mapping[str, Path]
    _readers: dict[Path, Any] = field(default_factory=dict, repr=False, compare=False)

    def tensor(self, name: str) -> "Tensor":
        """One tensor, memory-mapped: its pages are read when they are used. Raises CheckpointError."""
        if name not in self.files:
            raise CheckpointError(f"{self.folder}: there is no tensor {name}")
        path = self.files[name]
        from safetensors import SafetensorError, safe_open

        try:
            if path not in self._readers:
                self._readers[path] = safe_open(path, framework="pt")
            tensor: Tensor = self._readers[path].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: cannot read {name}: {error}; {_MEND}") from None
        return tensor

    def digest(self, names: Sequence[str]) -> str:
        """A short name for the values of these tensors: 16 hexadecimal digits of their bytes' BLAKE2.

        Raises:
            CheckpointError: a file cannot be read.
        """
        told = hashlib.blake2b(digest_size=8)
        headers = {path: _read_header(path) for path in {self.files[name] for name in names}}
        for name in names:
            path = self.files[name]
            place = headers[path][name]
            try:
                with path.open("rb") as file:
                    file.seek(place.start)
                    told.update(name.encode() + file.read(place.end - place.start))
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be read: {error.strerror}; {_MEND}") from None
        return told.hexdigest()


def open_checkpoint(folder: Path) -> Checkpoint:
    """Look into the headers of a folder's safetensors files: those that the index names, or else all but the
    same weights once more (`*.fp32*`). Tensors that the index leaves out are there all the same.

    Raises:
        CheckpointError: there is no such file, one is damaged or cut short, a tensor of the index is not
            where the index says, or two files have a tensor of the same name.
    """
    index = _read_index(folder)
    every = set(folder.glob("*.safetensors")) - set(folder.glob("*.fp32*"))
    paths = sorted({folder / file for file in index.values()} or every)
    if not paths:
        raise CheckpointError(f"{folder}: there are no weights here: no {INDEX} and no *.safetensors file")
    shapes: dict[str, Shape] = {}
    files: dict[str, Path] = {}
    for path in paths:
        for name, place in _read_header(path).items():
            if name in files:
                raise CheckpointError(
                    f"{folder}: {name} is in {files[name].name} and in {path.name}: "
                    f"keep one of the files, or {_MEND}"
                )
            shapes[name], files[name] = place.shape, path
    astray = [name for name, file in index.items() if files.get(name) != folder / file]
    if astray:
        raise CheckpointError(
            f"{folder}: {_count(len(astray), 'tensor')} not where {INDEX} says: {_name_some(astray)}; {_MEND}"
        )
    return Checkpoint(folder, shapes, files)


class _Place(NamedTuple):
    """One tensor in a file: its shape, and the file's bytes from `start` up to `end`."""

    shape: Shape
    start: int
    end: int


def _read_header(path: Path) -> dict[str, _Place]:
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = file.read(header_bytes) if header_bytes <= size_bytes else b""
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; {_MEND}") from None
    if len(header) < header_bytes or size_bytes < 8:
        raise CheckpointError(f"{path}: cut short within its header, or no safetensors file; {_MEND}")
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        data_start = 8 + header_bytes
        places = {
            name: _Place(tuple(entry["shape"]), *(data_start + offset for offset in entry["data_offsets"]))
            for name, entry in entries.items()
        }
        wanted_bytes = max((place.end for place in places.values()), default=data_start)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"{path}: its header is damaged, or it is no safetensors file; {_MEND}"
        ) from None
    if size_bytes != wanted_bytes:
        problem = "cut short" if size_bytes < wanted_bytes else "too long"
        raise CheckpointError(f"{path}: {problem}: {size_bytes:,} bytes instead of {wanted_bytes:,}; {_MEND}")
    return places


def check_shapes(folder: Path, found: Shapes, wanted: Shapes, optional: Shapes | None = None) -> None:
    """See that a checkpoint has every wanted tensor, no other but optional ones, and all in their shapes.

    Raises:
        CheckpointError: names what is missing, not known or of another shape.
    """
    known = {**(optional or {}), **wanted}
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in known]
    misshapen = [name for name in known if name in found and tuple(found[name]) != tuple(known[name])]
    problems = []
    if missing:
        problems.append(
            f"{_count(len(missing), 'tensor')} missing: {_name_some(_with_nearest(missing, unknown))}"
        )
    if unknown:
        problems.append(f"{_count(len(unknown), 'tensor')} not known: {_name_some(unknown)}")
    if misshapen:
        shapes = [f"{name} is {list(found[name])}, not {list(known[name])}" for name in misshapen]
        problems.append(f"{_count(len(misshapen), 'tensor')} of another shape: {_name_some(shapes)}")
    if problems:
        raise CheckpointError(
            f"{folder}: the weights do not fit the configuration: {'; '.join(problems)}; "
            f"check that all files are of one checkpoint, or {_MEND}"
        )


def _read_index(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    if not path.exists():
        return {}
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: damaged: it has no readable 'weight_map'; {_MEND}") from None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{' is' if number == 1 else 's are'}"


def _name_some(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _with_nearest(missing: Iterable[str], unknown: Iterable[str]) -> list[str]:
    """The missing names, the first ones with the unknown name that resembles them most."""
    described = list(missing)
    for number, name in enumerate(described[:_NAMED]):
        close = difflib.get_close_matches(name, list(unknown), n=1)
        if close:
            described[number] = f"{name} (is it {close[0]}?)"
    return described

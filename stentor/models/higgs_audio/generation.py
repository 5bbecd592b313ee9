"""What a checkpoint's `generation_config.json` says of how to draw."""

from pathlib import Path

import msgspec

from stentor.errors import RequestError
from stentor.models.fields import Fields
from stentor.request import SamplingParams

FILE = "generation_config.json"


def read_sampling_defaults(folder: Path, otherwise: SamplingParams) -> SamplingParams:
    """The checkpoint's own defaults, and for what it leaves out those of `otherwise`, which has no None but
    the seed; `do_sample` false means greedy.

    Raises:
        CheckpointError: the file is damaged, or a value is out of range.
    """
    fields = read_generation(folder)
    wanted = {name: value for name, value in msgspec.structs.asdict(otherwise).items() if value is not None}
    given = {name: fields.get(name, type(value), value) for name, value in wanted.items()}
    if not fields.get("do_sample", bool, True):
        given["temperature"] = 0.0
    try:
        return SamplingParams(**given)
    except RequestError as error:
        raise fields.error(error.message) from None


def read_generation(folder: Path) -> Fields:
    """The fields of the file; none where there is no file. Raises CheckpointError: it is damaged."""
    path = folder / FILE
    return Fields.read(path) if path.exists() else Fields(path, {})

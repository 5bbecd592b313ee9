"""Knows the named voices of a checkpoint: `default`, and what its `voices/` folder holds."""

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from stentor.errors import CheckpointError
from stentor.request import Reference
from stentor.voices.names import skeleton

DEFAULT = "default"

# Names that OpenAI's clients ask for; they mean speakers of the model, or its default voice if it has none,
# unless the checkpoint has a voice of that name.
OPENAI_VOICES = (
    *("alloy", "ash", "ballad", "coral", "echo", "fable", "onyx"),
    *("nova", "sage", "shimmer", "verse", "marin", "cedar"),
)


class Presets:
    """The voices of one checkpoint, and the `speakers` of its model; they never change.

    A voice is a file `voices/NAME.npy` (its reference's codes, integers [num_frames, num_codebooks], before
    the delay pattern) and beside it `voices/NAME.txt` (what the recording says, UTF-8). `voices/aliases.json`
    gives further names to them ({"alloy": "NAME", ...}); `default` names the model's own voice.
    A speaker may be called in capitals or small letters.
    """

    def __init__(self, checkpoint: str | Path, speakers: Sequence[str] = ()) -> None:
        """Raises CheckpointError if a voice is damaged or lacks its text."""
        self._voices: dict[str, Reference | None] = {DEFAULT: None}
        self._voices |= {name: Reference(speaker=name) for name in speakers}
        for path in sorted((Path(checkpoint) / "voices").glob("*.npy")):
            self._voices[path.stem] = _read(path)
        # Names that differ are different speakers, as far as there are some.
        self._aliases = dict(zip(OPENAI_VOICES, cycle(speakers), strict=False))
        self._aliases |= _read_aliases(Path(checkpoint) / "voices" / "aliases.json", self._voices)
        self._speakers = {skeleton(name): name for name in speakers}

    def names(self) -> tuple[str, ...]:
        """All of them: `default` first, then the model's speakers, then the others by name."""
        return tuple(self._voices)

    def find(self, name: str) -> str | None:
        """The preset that `name` stands for: itself, or what an alias or a name of OpenAI's means here."""
        if name in self._voices:
            return name
        known = self._speakers.get(skeleton(name)) or self._aliases.get(name)
        return known or (DEFAULT if name in OPENAI_VOICES else None)

    def __getitem__(self, name: str) -> Reference | None:
        """The reference of one of `names()`; None for the model's own default voice."""
        return self._voices[name]


def _read_aliases(path: Path, voices: dict[str, Reference | None]) -> dict[str, str]:
    """Other names of the voices; a voice's own name always means itself."""
    if not path.exists():
        return {}
    try:
        aliases = json.loads(path.read_text(encoding="utf-8"))
        broken = [name for name, voice in aliases.items() if voice not in voices]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"the names in {path} cannot be read: {error}") from None
    if broken:
        raise CheckpointError(f"{path} gives the name {broken[0]!r} to a voice that is not there")
    return {name: voice for name, voice in aliases.items() if name not in voices}


def _read(path: Path) -> Reference:
    try:
        codes = np.load(path, allow_pickle=False)
        text = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"the voice {path} cannot be read: {error}") from None
    if codes.ndim != 2 or len(codes) == 0 or not np.issubdtype(codes.dtype, np.integer):
        raise CheckpointError(
            f"the voice {path} is a {codes.dtype} array of shape {codes.shape}, but must hold integers "
            "[num_frames, num_codebooks]: make it with `stentor codes encode`"
        )
    return Reference(codes=codes, text=text or None)

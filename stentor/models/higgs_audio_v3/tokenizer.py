"""Text to ids as `tokenizer.json` has them: special tokens by name, none of them out of a user's text."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stentor.errors import CheckpointError
from stentor.models.fields import Fields
from stentor.text.tags import split

FILE = "tokenizer.json"

_CONTROL_TAG = re.compile(r"<\|(emotion|style|sfx|prosody):\w+\|>")


@dataclass(frozen=True)
class Structure:
    """The ids that shape a prompt. Older checkpoints know no transcripts: their `ref_text` is None."""

    tts: int
    text: int
    audio: int
    ref_audio: int
    ref_text: int | None


class TokenizerFile:
    """A parsed `tokenizer.json`: cheap to look into, before any tokenizer is built from it.

    Special tokens are found by their names, because their ids differ between checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError: the file is absent or damaged, or lacks a token that a prompt needs."""
        fields = Fields.read(folder / FILE)
        self.path = fields.path
        self.content: Mapping[str, Any] = fields.values
        try:
            self.added: dict[str, dict[str, Any]] = {
                entry["content"]: entry for entry in fields.get("added_tokens", list)
            }
            self.ids = {name: int(entry["id"]) for name, entry in self.added.items()}
        except (KeyError, TypeError, ValueError):
            raise fields.error("damaged: 'added_tokens' lacks contents or ids") from None
        if len(set(self.ids.values())) < len(self.ids):
            raise fields.error("damaged: two of its 'added_tokens' have the same id")
        self.structure = self._structure()

    @property
    def control_tags(self) -> dict[str, int]:
        """The tags that users may write, such as `<|prosody:pause|>`, with their ids, in the ids' order."""
        tags = {name: id for name, id in self.ids.items() if _CONTROL_TAG.fullmatch(name)}
        return dict(sorted(tags.items(), key=lambda item: item[1]))

    def _structure(self) -> Structure:
        names = ("tts", "text", "audio", "ref_audio")
        missing = [f"<|{name}|>" for name in names if f"<|{name}|>" not in self.ids]
        if missing:
            raise CheckpointError(
                f"{self.path}: the special tokens {', '.join(missing)} are missing: it is another model's "
                "tokenizer; take the one that came with the weights"
            )
        return Structure(
            tts=self.ids["<|tts|>"],
            text=self.ids["<|text|>"],
            audio=self.ids["<|audio|>"],
            ref_audio=self.ids["<|ref_audio|>"],
            ref_text=self.ids.get("<|ref_text|>"),
        )


class V3Tokenizer:
    """Encodes what users write: control tags become single ids, all else ordinary pieces.

    Text that spells another special token (`<|audio|>`, `<|im_end|>`) is text like any other and cannot
    shape the prompt, because the tokenizer underneath does not know these tokens. Everything else is as the
    file has it: normalisation (NFC), splitting, merges; nothing is stripped.
    """

    def __init__(self, file: TokenizerFile, vocab_size: int) -> None:
        """Build it. Raises CheckpointError: the file is damaged, or has ids beyond the embedding's rows."""
        self.structure = file.structure
        self.control_tags = file.control_tags
        self._added = file.added
        self._plain = _plain_tokenizer(file)
        largest = max(*file.ids.values(), *self._plain.get_vocab().values())
        if largest >= vocab_size:
            raise CheckpointError(
                f"{file.path}: token id {largest} is beyond the text vocabulary of {vocab_size} in "
                "config.json: the two files are not of one checkpoint"
            )

    def encode(self, text: str) -> list[int]:
        """The ids of a user's text."""
        ids: list[int] = []
        pieces = list(split(text, self.control_tags))
        for number, (is_tag, piece) in enumerate(pieces):
            if is_tag:
                ids.append(self.control_tags[piece])
                continue
            if number > 0 and self._added[pieces[number - 1][1]].get("rstrip"):
                piece = piece.lstrip()
            if number + 1 < len(pieces) and self._added[pieces[number + 1][1]].get("lstrip"):
                piece = piece.rstrip()
            ids += self._plain.encode(piece, add_special_tokens=False).ids
        return ids


def _plain_tokenizer(file: TokenizerFile) -> Any:
    """The file's tokenizer without its added tokens, which are then spelled out in bytes like any text."""
    from tokenizers import Tokenizer

    content = dict(file.content) | {"added_tokens": [], "truncation": None, "padding": None}
    try:
        model = dict(content["model"])
        # Some exports list the added tokens here too.
        model["vocab"] = {name: id for name, id in model["vocab"].items() if name not in file.added}
        return Tokenizer.from_str(json.dumps(content | {"model": model}))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{file.path}: damaged, or no byte-level BPE tokenizer: {error}") from None

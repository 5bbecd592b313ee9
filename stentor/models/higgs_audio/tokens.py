"""Text to ids as a tokenizer's files have them, and none of its special tokens out of a user's text."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from stentor.errors import CheckpointError
from stentor.models.fields import Fields
from stentor.text.tags import split

FILE = "tokenizer.json"
VOCABULARY, MERGES, SETTINGS = "vocab.json", "merges.txt", "tokenizer_config.json"

# How tokenizers that come as a vocabulary and its merges (Qwen2's) split a text before they look into these.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TokenizerFile:
    """A parsed `tokenizer.json`, or what it would be: cheap to look into, before any tokenizer is built.

    Without it, `vocab.json`, `merges.txt` and `tokenizer_config.json` say the same, as for a Qwen2Tokenizer.
    Special tokens are found by their names (`ids`), because their ids differ between checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError: the file is absent or damaged."""
        apart = not (folder / FILE).exists() and (folder / VOCABULARY).exists()
        fields = _read_apart(folder) if apart else Fields.read(folder / FILE)
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

    def require(self, names: Collection[str]) -> None:
        """Raises CheckpointError: one of these special tokens, which a prompt needs, is not there."""
        missing = [name for name in names if name not in self.ids]
        if missing:
            raise CheckpointError(
                f"{self.path}: the special tokens {', '.join(missing)} are missing: it is another model's "
                "tokenizer; take the one that came with the weights"
            )


class TextTokenizer:
    """Encodes what users write: the special tokens that they `may` write become single ids, all else
    ordinary pieces.

    Text that spells another special token is text like any other and cannot shape the prompt, because the
    tokenizer underneath does not know these tokens. Everything else is as the file has it: normalisation,
    splitting, merges; nothing is stripped.
    """

    def __init__(self, file: TokenizerFile, may: Collection[str], vocab_size: int) -> None:
        """Build it. Raises CheckpointError: the file is damaged, or has ids beyond the embedding's rows."""
        self._added, self._ids = file.added, {name: file.ids[name] for name in may}
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
        pieces = list(split(text, self._ids))
        for number, (is_special, piece) in enumerate(pieces):
            if is_special:
                ids.append(self._ids[piece])
                continue
            if number > 0 and self._added[pieces[number - 1][1]].get("rstrip"):
                piece = piece.lstrip()
            if number + 1 < len(pieces) and self._added[pieces[number + 1][1]].get("lstrip"):
                piece = piece.rstrip()
            ids += self._plain.encode(piece, add_special_tokens=False).ids
        return ids


def _read_apart(folder: Path) -> Fields:
    """What `tokenizer.json` would say."""
    settings = Fields.read(folder / SETTINGS)
    tokens = settings.get("added_tokens_decoder", dict)
    try:
        added = [{"id": int(id), **token} for id, token in tokens.items()]
    except (TypeError, ValueError):
        raise settings.error("damaged: 'added_tokens_decoder' must have tokens by their ids") from None
    try:
        merges = (folder / MERGES).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / MERGES}: cannot be read: {error}") from None
    model = {
        "type": "BPE",
        "vocab": Fields.read(folder / VOCABULARY).values,
        "merges": [line for line in merges if line and not line.startswith("#version")],
    }
    pieces = {"type": "Split", "pattern": {"Regex": _PIECES}, "behavior": "Isolated", "invert": False}
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    content = {
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [pieces, bytewise]},
        "model": model,
    }
    return Fields(settings.path, content)


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

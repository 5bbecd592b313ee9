"""Knows how a long text is cut into parts that are each said by a prompt of their own, in one manner."""

import unicodedata
from collections.abc import Iterable

from stentor.text.sentences import SentenceSplitter
from stentor.text.tags import kind_of, split


class Manners:
    """The manners of speaking in a text that is said part by part.

    An emotion, a style or a speed holds on until another of its kind.
    """

    def __init__(self, known_tags: Iterable[str]) -> None:
        self._known_tags = tuple(known_tags)
        self._in_force: dict[str, str] = {}

    def before(self, part: str) -> str:
        """The tags that the next part is to begin with, each with a blank behind it; may be empty."""
        begins_with = set()
        for is_tag, piece in split(part, self._known_tags):
            if not is_tag and piece.strip():
                break
            begins_with.add(kind_of(piece) if is_tag else None)
        return "".join(f"{tag} " for kind, tag in self._in_force.items() if kind not in begins_with)

    def next(self, part: str) -> str:
        """The next part with what it is to begin with."""
        told = self.before(part) + part
        for is_tag, piece in split(part, self._known_tags):
            kind = kind_of(piece) if is_tag else None
            if kind is not None:
                self._in_force[kind] = piece
        return told


def parts_of(text: str, max_chars: int, known_tags: Iterable[str]) -> list[str]:
    """Whole sentences, as many to a part as `max_chars` allow; a longer sentence is a part of its own.

    What is said is all there, once and in order; each part begins with the manners that are in force.
    """
    known_tags = tuple(known_tags)
    splitter = SentenceSplitter()
    parts: list[str] = []
    for sentence in [*splitter.feed(text), *splitter.flush()]:
        # What says nothing by itself stays with what it follows, or at the beginning with what follows it.
        silent = not all(_is_spoken(part, known_tags) for part in (sentence, *parts[-1:]))
        if parts and (silent or len(parts[-1]) + len(sentence) <= max_chars):
            parts[-1] += sentence
        else:
            parts.append(sentence)
    manners = Manners(known_tags)
    return [manners.next(part.strip()) for part in parts]


def usual_s(text: str) -> float:
    """Seconds that a usual voice takes for a text: 15 letters a second, 5 ideographs, 3 digits or signs."""
    wide = sum(c.isalpha() and unicodedata.east_asian_width(c) in "WF" for c in text)
    letters = sum(map(str.isalpha, text)) - wide
    others = len(text) - letters - wide - sum(map(str.isspace, text))
    return letters / 15 + wide / 5 + others / 3


def _is_spoken(text: str, known_tags: tuple[str, ...]) -> bool:
    return any(c.isalnum() for is_tag, piece in split(text, known_tags) if not is_tag for c in piece)

"""Knows how a long text is cut into parts that are each said by a prompt of their own."""

from collections.abc import Iterable

from stentor.text.sentences import SentenceSplitter
from stentor.text.tags import kind_of, split


def parts_of(text: str, max_chars: int, known_tags: Iterable[str]) -> list[str]:
    """Whole sentences, as many to a part as `max_chars` allow; a longer sentence is a part of its own.

    What is said is all there, once and in order. A manner of speaking (an emotion, a style, a speed) holds on
    until another of its kind: each part begins with those that are in force.
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
    return _with_manners([part.strip() for part in parts], known_tags)


def _is_spoken(text: str, known_tags: tuple[str, ...]) -> bool:
    return any(c.isalnum() for is_tag, piece in split(text, known_tags) if not is_tag for c in piece)


def _with_manners(parts: list[str], known_tags: tuple[str, ...]) -> list[str]:
    in_force: dict[str, str] = {}
    told = []
    for part in parts:
        pieces = list(split(part, known_tags))
        begins_with = set()
        for is_tag, piece in pieces:
            if not is_tag and piece.strip():
                break
            begins_with.add(kind_of(piece) if is_tag else None)
        carried = [tag for kind, tag in in_force.items() if kind not in begins_with]
        told.append("".join(f"{tag} " for tag in carried) + part)
        for tag in (piece for is_tag, piece in pieces if is_tag):
            kind = kind_of(tag)
            if kind is not None:
                in_force[kind] = tag
    return told

"""Cuts a text that is still being written into sentences, each as soon as its end is certain."""

import re
from typing import Literal

import sentencex

from stentor.text.tags import LOOKALIKE, without_tags

Granularity = Literal["sentence", "clause", "none"]

# A piece shorter than this waits for the next: a lone "Yes." is spoken worse, and not sooner heard in full.
# In bytes of UTF-8, so that a Chinese character, a whole syllable, counts as three.
_SHORTEST_BYTES = 10
_BEGUN_TAG = re.compile(r"<(?:\|[^<>|]{0,80}\|?)?$")
_TRAILING_TAGS = re.compile(r"(?:<\|[^<>|]{0,80}\|>\s*)+$")
# Whatever may end a sentence, with the whole word that follows: only then is it certain ("am 3. Mai"). Of
# scripts without spaces one character will do.
_PERHAPS_AN_END = re.compile(r"(?:[^\w\s]|\n)\W*(?:[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|\w+(?=\W))")
_CLAUSE_END = re.compile(r"[,;:—](?=\s)\s*|[，；：、]\s*")
_WORD_END = re.compile(r"\s+")


class SentenceSplitter:
    """Takes a text in any portions and gives it back in pieces worth speaking.

    The pieces joined are the text, and do not depend on the portions. No cut lies in a control tag
    (`<|...|>`), a word, a number, an abbreviation or a URL; a tag between two sentences goes with the second.
    `language` is an ISO 639-1 code (its abbreviations are known; an unknown one does no harm). With "clause"
    commas end a piece, too, and with "none" nothing but `flush`. A sentence of more than `max_chars` is cut
    at a clause or a word.
    """

    def __init__(
        self, granularity: Granularity = "sentence", language: str = "en", *, max_chars: int = 500
    ) -> None:
        self._granularity = granularity
        self._language = language
        self._max_chars = max_chars
        self._text = ""
        self._examined = 0  # No end lies before this.

    @property
    def num_held(self) -> int:
        """Characters that wait for the end of their sentence."""
        return len(self._text)

    def feed(self, text: str) -> list[str]:
        """The pieces that are certain now."""
        self._text += text
        pieces = []
        while (end := self._first_end()) is not None:
            pieces.append(self._text[:end])
            self._text = self._text[end:]
            self._examined = 0
        return pieces

    def flush(self) -> list[str]:
        """The rest, as it is."""
        rest, self._text, self._examined = self._text, "", 0
        return [rest] if rest else []

    def _first_end(self) -> int | None:
        if self._granularity == "none":
            return None
        # All is decided by the text alone, up to here: so the portions do not matter.
        window = self._text[: self._max_chars]
        begun = _BEGUN_TAG.search(window)
        masked = LOOKALIKE.sub(lambda tag: " " * len(tag.group()), window[: begun.start() if begun else None])
        for candidate in _PERHAPS_AN_END.finditer(masked, self._examined):
            end = self._end_before(masked[: candidate.end()])
            if end is not None:
                return end
            self._examined = candidate.end()
        return _forced_end(window) if len(self._text) > self._max_chars else None

    def _end_before(self, masked: str) -> int | None:
        """The first end of a piece in `masked`, whose last word lies beyond it."""
        ends, at = [], 0
        for sentence in sentencex.segment(self._language, masked):
            at += len(sentence)
            # Without a space it is as likely an address (example.Com) as the end of a sentence.
            if at < len(masked) and not (sentence[-1:].isascii() and not sentence[-1:].isspace()):
                ends.append(at)
        if self._granularity == "clause":
            ends += [mark.end() for mark in _CLAUSE_END.finditer(masked[:-1])]
        # The blanks that stand for tags may be parted like any others.
        tags = [tag.span() for tag in LOOKALIKE.finditer(self._text[: len(masked)])]
        for end in sorted(ends):
            end = next((start for start, stop in tags if start < end < stop), end)
            trailing = _TRAILING_TAGS.search(self._text[:end])
            before_tags = trailing.start() if trailing else end
            spoken = (letter for letter in without_tags(self._text[:before_tags]) if letter.isalnum())
            if sum(len(letter.encode(errors="replace")) for letter in spoken) >= _SHORTEST_BYTES:
                return before_tags
        return None


def _forced_end(window: str) -> int:
    """Where a text without an end in sight is cut: at its last clause, or word, or wherever no tag is cut."""
    begun = _BEGUN_TAG.search(window)
    whole = window[: begun.start() if begun and begun.start() > 0 else None]
    masked = LOOKALIKE.sub(lambda tag: "x" * len(tag.group()), whole)
    for mark in (_CLAUSE_END, _WORD_END):
        ends = [found.end() for found in mark.finditer(masked)]
        if ends and ends[-1] > len(whole) // 4:
            return ends[-1]
    return len(whole)

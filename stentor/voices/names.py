"""Knows which names a voice may have, and when two of them could be taken for one another."""

import re
import secrets
import unicodedata

from stentor.errors import RequestError

MAX_CHARS = 64

# What may stand between letters, marks and digits of any script.
_SEPARATORS = " -_."
_ID = re.compile(r"voice_[0-9a-f]{20}")

# Letters of other scripts that are drawn like Latin ones (from Unicode's confusables.txt, the common part).
_LOOKALIKES = str.maketrans(
    "авекмнорстухіјѕһԁԛԝɡαβεηικνορτυχ",
    "abekmhopctyxijshdqwgabenikvoptux",
)


def is_id(text: str) -> bool:
    """Whether it has the form of a voice's id."""
    return _ID.fullmatch(text) is not None


def new_id() -> str:
    """An id that no other voice has."""
    return f"voice_{secrets.token_hex(10)}"


def check_name(name: str) -> str:
    """The name as it is kept (composed, NFC). Raises RequestError if no voice may be called so."""
    if not isinstance(name, str):
        raise _refuse("must be text")
    name = unicodedata.normalize("NFC", name)
    if not 1 <= len(name) <= MAX_CHARS:
        raise _refuse(f"has {len(name)} characters, but must have 1 to {MAX_CHARS}")
    for character in name:
        if unicodedata.category(character)[0] not in "LMN" and character not in _SEPARATORS:
            raise _refuse(f"holds {character!r}: use letters, digits, spaces, and - _ . between them")
    if unicodedata.category(name[0])[0] == "M" or {name[0], name[-1]} & set(_SEPARATORS):
        raise _refuse("must begin with a letter or a digit, and end with neither a space nor a sign")
    if is_id(name):
        raise _refuse("looks like a voice's id: take another")
    return name


def skeleton(name: str) -> str:
    """What two names have in common when one could be taken for the other: case, width, script, signs.

    The idea is that of Unicode's Technical Standard 39, section 4.
    """
    folded = unicodedata.normalize("NFKC", name).casefold().translate(_LOOKALIKES)
    return re.sub(rf"[{re.escape(_SEPARATORS)}]+", "-", folded)


def _refuse(problem: str) -> RequestError:
    return RequestError(f"the voice's name {problem}", param="name", code="invalid_voice_name")

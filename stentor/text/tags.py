"""Control tags in a text: where they stand, which a model knows, and what a misspelt one was meant to be."""

import difflib
import re
from collections.abc import Iterable, Iterator

from stentor.errors import RequestError

# Whatever looks like a special token; no bars and brackets inside, so that a stray "<|" ends nothing far
# away.
LOOKALIKE = re.compile(r"<\|[^<>|]{0,80}\|>")
# difflib's measure; a slip of one or two letters stays above it, another word falls below.
_SIMILARITY = 0.6


def split(text: str, known: Iterable[str]) -> Iterator[tuple[bool, str]]:
    """Cut `text` into (is_tag, piece): known tags, and what stands between them, untouched and never empty.

    The pieces joined are the text. Of two known tags at one place the longer one is taken.
    """
    tags = sorted(known, key=len, reverse=True)
    nothing = "(?!)"
    pieces = re.split(f"({'|'.join(map(re.escape, tags)) or nothing})", text)
    for number, piece in enumerate(pieces):
        if piece:
            yield number % 2 == 1, piece


def without_tags(text: str) -> str:
    """What of a text is said in words: everything but what looks like a control tag."""
    return LOOKALIKE.sub("", text)


def kind_of(tag: str) -> str | None:
    """What a manner of speaking excludes: of one kind only one holds. None for what is over at once.

    That is an effect (`<|sfx:...|>`) or a pause; `<|prosody:speed_slow|>` is of another kind than
    `<|prosody:pitch_low|>`, and all speakers (`[SPEAKER0]`) are of one.
    """
    family, _, name = _word(tag).partition(":")
    if family == "sfx" or "pause" in name:
        return None
    return f"{family}:{name.partition('_')[0]}" if family == "prosody" else family.rstrip("]0123456789")


def check_tags(text: str, known: Iterable[str], *, param: str = "input") -> None:
    """Refuse what looks like a control tag and is none: it would be read aloud, or not do what was meant.

    That is everything between `<|` and `|>`, and a known family in broken brackets (`<prosody:pause>`).
    `param` is the request's field that holds the text.

    Raises:
        RequestError: names the first such tag and the nearest right one.
    """
    known = tuple(known)
    patterns = [LOOKALIKE]
    families = sorted({tag[2:].partition(":")[0] for tag in known if ":" in tag})
    if families:
        names = "|".join(map(re.escape, families))
        patterns.append(re.compile(rf"<\|?\s*(?:{names})\s*:[^<>|]{{0,80}}\|?>", re.IGNORECASE))
    for pattern in patterns:
        for match in pattern.finditer(text):
            if match.group() not in known:
                raise RequestError(_explain(match.group(), known), param=param, code="unknown_tag")


def nearest(tag: str, known: Iterable[str]) -> str | None:
    """The known tag that `tag` most likely means, or None if none is near.

    Compares the words inside the brackets: within the family before the colon if that is a known one, else
    with and without it, so that `<|laugh|>` finds `<|sfx:laughter|>`.
    """
    word = _word(tag)
    family, _, name = word.rpartition(":")
    all_names = {_word(other): other for other in known}
    in_family = {other: full for other, full in all_names.items() if other.startswith(family + ":")}
    by_name = {other.rpartition(":")[2]: full for other, full in (in_family or all_names).items()}
    attempts = [(name, by_name)] if in_family else [(word, by_name | all_names), (name, by_name)]
    for wanted, choice in attempts:
        close = difflib.get_close_matches(wanted, choice, n=1, cutoff=_SIMILARITY)
        if close:
            return choice[close[0]]
    return None


def _word(tag: str) -> str:
    """`<|Prosody: Pause |>` as `prosody:pause`."""
    return "".join(tag.strip("<|>").lower().split())


def _explain(tag: str, known: tuple[str, ...]) -> str:
    family = _word(tag).partition(":")[0]
    relatives = [other for other in known if _word(other).startswith(family + ":")]
    if (meant := nearest(tag, known)) is not None:
        advice = f"did you mean {meant}?"
    elif relatives:
        names = ", ".join(_word(other).partition(":")[2] for other in relatives)
        advice = f"the {family} tags, spelled like {relatives[0]}, are {names}."
    elif known:
        families = ", ".join(dict.fromkeys(_word(other).partition(":")[0] for other in known))
        advice = f"there are tags for {families}, spelled like {known[0]}."
    else:
        advice = "this model knows none, leave it out."
    return f"{tag} is no control tag: {advice} To have it read as plain text, leave out its < and >"

"""Knows the words for a delivery that have a control tag, and finds them in an instruction."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from stentor.request import ModelInfo
from stentor.text.tags import kind_of

# For each tag the words that mean it, as patterns. Of one row only one tag is taken, the first that is said:
# nobody can speak fast and slowly. A tag that a model does not know is passed over.
_MEANINGS: tuple[dict[str, str], ...] = (
    {
        "style:whispering": r"whisper\w*|under (?:your|her|his|their) breath",
        "style:shouting": r"shout\w*|yell\w*|scream\w*",
        "style:singing": r"sing|singing|sung",
    },
    {
        "emotion:anger": r"ang(?:er|ry|rily)|furious\w*|irritated",
        "emotion:sadness": r"sad\w*|sorrow\w*|mournful\w*|melanchol\w*|tearful\w*",
        "emotion:enthusiasm": r"enthusias\w*|excite\w*|energetic\w*|upbeat",
        "emotion:amusement": r"amuse\w*|playful\w*|funny|humou?rous\w*",
        "emotion:elation": r"elat\w*|happ(?:y|ily|iness)|joy\w*|cheer\w*|delighted",
        "emotion:contentment": r"calm\w*|contented\w*|relaxed|sooth\w*|seren\w*|peaceful\w*|gentle|gently",
        "emotion:affection": r"affection\w*|warm|warmly|warmth|tender\w*|loving\w*|friendly|kindly",
        "emotion:determination": r"determin\w*|firm|firmly|resolute\w*|confident\w*|authoritative\w*",
        "emotion:pride": r"proud\w*|pride",
        "emotion:relief": r"relie(?:f|ved)",
        "emotion:contemplation": r"contemplat\w*|thoughtful\w*|pensive\w*|reflective\w*",
        "emotion:confusion": r"confus\w*|puzzled|bewildered",
        "emotion:surprise": r"surpris\w*|astonish\w*|amazed",
        "emotion:awe": r"awe|awed|awestruck",
        "emotion:longing": r"longing\w*|yearn\w*|wistful\w*|nostalgic\w*",
        "emotion:fear": r"fear\w*|afraid|scared|frighten\w*|terrified|anxious\w*|nervous\w*",
        "emotion:disgust": r"disgust\w*|revolted",
        "emotion:bitterness": r"bitter\w*|resentful\w*",
        "emotion:shame": r"shame\w*|ashamed|embarrass\w*|guilty",
        "emotion:helplessness": r"helpless\w*|desperat\w*|hopeless\w*",
    },
    {
        "prosody:speed_very_slow": r"(?:very|extremely|really) slow(?:ly)?",
        "prosody:speed_very_fast": r"(?:very|extremely|really) (?:fast|quick(?:ly)?|rapid(?:ly)?)",
        "prosody:speed_slow": r"slow(?:ly|er)?|unhurried\w*|leisurely",
        "prosody:speed_fast": r"fast(?:er)?|quick(?:ly|er)?|rapid(?:ly)?|hurried(?:ly)?|brisk(?:ly)?",
    },
    {
        "prosody:pitch_low": r"(?:low|lower|deep|deeper)(?:[- ](?:pitch\w*|voice|tone|register))",
        "prosody:pitch_high": r"(?:high|higher)(?:[- ](?:pitch\w*|voice|tone|register))",
    },
    {
        "prosody:expressive_high": r"expressive\w*|dramatic\w*|animated\w*|theatrical\w*|lively",
        "prosody:expressive_low": r"monoton\w*|flat|flatly|deadpan|expressionless\w*|emotionless\w*",
    },
)

# What comes up to three words behind one of these is not wanted, or not known to be.
_NEGATION = re.compile(r"\b(?:not|no|never|without|avoid\w*|less|\w+n't|neither|nor)(?:\s+[\w'-]+){0,3}\s*$")
_MOST_CHARS = 2_000


class Directed(NamedTuple):
    """A text, instructions that its model reads itself, and what to tell the caller of them."""

    text: str
    instructions: str | None = None
    notes: tuple[str, ...] = ()


def directed(text: str, instructions: str | None, info: ModelInfo) -> Directed:
    """A text as its model can follow instructions: with the tags that they ask for, or beside them."""
    if not (instructions and instructions.strip() and text.strip()):
        return Directed(text)
    if info.reads_instructions:
        return Directed(text, instructions)
    tags = tags_for(instructions, info.control_tags)
    if not tags:
        return Directed(text, notes=("instructions are ignored: no words in them have a control tag",))
    note = f"instructions are read as {' '.join(tags)}"
    return Directed("".join(f"{tag} " for tag in tags) + text, notes=(note,))


def tags_for(instructions: str, known: Iterable[str]) -> tuple[str, ...]:
    """The control tags, of those that a model knows, which an instruction asks for; mostly none or one.

    At most one of each kind (style, emotion, speed, pitch, expression), in that order; where two words of a
    kind are said, the first counts. Tags that stand in the instruction themselves come first. A word behind
    a negation asks for nothing.
    """
    known = tuple(known)
    text = " ".join(instructions[:_MOST_CHARS].lower().replace("’", "'").split())
    found = [tag for tag in known if tag in text]
    families = {kind_of(tag) for tag in found}
    for meanings in _MEANINGS:
        said = [
            (match.start(), -len(match.group()), f"<|{name}|>")
            for name, words in meanings.items()
            for match in re.finditer(rf"\b(?:{words})\b(?![:_|])", text)
            if f"<|{name}|>" in known and not _NEGATION.search(text[: match.start()])
        ]
        if said and kind_of(tag := min(said)[2]) not in families:
            found.append(tag)
    return tuple(found)

"""What is said, and where: a user's text and instructions in the words that the model was trained on.

They are those of the model's own examples (https://github.com/boson-ai/higgs-audio, examples/generation.py).
"""

import re
from typing import NamedTuple

SCENE_START, SCENE_END = "<|scene_desc_start|>", "<|scene_desc_end|>"
# Sounds stand between these; they are single tokens, and users may write them too.
EVENT_TOKENS = ("<SE>", "</SE>", "<SE_s>", "</SE_s>", "<SE_e>", "</SE_e>")

_SYSTEM = "Generate audio following instruction."
_SYSTEM_OF_SPEAKERS = (
    "You are an AI assistant designed to convert text into speech.\n"
    "If the user's message includes a [SPEAKER*] tag, do not read out the tag and generate speech for the "
    "following text, using the specified voice.\n"
    "If no speaker tag is present, select a suitable voice on your own."
)
_SCENE = "Audio is recorded from a quiet room."
# Of so many speakers one goes on speaking when a text is cut; there may be more in a prompt.
SPEAKER_TAGS = tuple(f"[SPEAKER{number}]" for number in range(16))
_SPEAKER = re.compile(r"\[(SPEAKER\d+)\]")
# Of several speakers without recordings, those at even places are women.
_KINDS = ("feminine", "masculine")

_EVENTS = {
    "laugh": "<SE>[Laughter]</SE>",
    "music": "<SE>[Music]</SE>",
    "music start": "<SE_s>[Music]</SE_s>",
    "music end": "<SE_e>[Music]</SE_e>",
    "humming start": "<SE_s>[Humming]</SE_s>",
    "humming end": "<SE_e>[Humming]</SE_e>",
    "sing start": "<SE_s>[Singing]</SE_s>",
    "sing end": "<SE_e>[Singing]</SE_e>",
    "applause": "<SE>[Applause]</SE>",
    "cheering": "<SE>[Cheering]</SE>",
    "cough": "<SE>[Cough]</SE>",
}
_EVENT = re.compile(r"\[(" + "|".join(sorted(_EVENTS, key=len, reverse=True)) + r")\]")
_SIGNS = str.maketrans(
    {
        **dict(zip("。：；？！【】《》“”‘’、—·「」『』", '.:;?![]<>""\'\',-.""""', strict=True)),
        "，": ", ",
        "…": "...",
        "（": " ",
        "）": " ",
        "(": " ",
        ")": " ",
    }
)
_UNITS = {"°F": " degrees Fahrenheit", "°C": " degrees Celsius"}
_ENDS = (".", "!", "?", ",", ";", '"', "'", "</SE>", "</SE_e>")


class System(NamedTuple):
    """The first turn: what the model is to do, and the scene in which it speaks."""

    task: str
    scene: str


def cleaned(text: str) -> str:
    """A text in signs that the model reads well, its sounds (`[laugh]`) as event tokens, ended by a stop."""
    text = text.translate(_SIGNS)
    for unit, words in _UNITS.items():
        text = text.replace(unit, words)
    text = _EVENT.sub(lambda match: _EVENTS[match[1]], text)
    text = "\n".join(" ".join(line.split()) for line in text.split("\n") if line.strip())
    return text if text.endswith(_ENDS) else text + "."


def system_turn(instructions: str | None, text: str, *, has_reference: bool) -> System:
    """The task and the scene for a text: a quiet room, or what the instructions describe.

    Instructions that hold a scene between its tokens are the whole turn, as other servers of this model take
    it. Several speakers in a text without a recording are given voices in turn.
    """
    task, scene = _SYSTEM, (instructions or "").strip() or _SCENE
    before, start, rest = scene.partition(SCENE_START)
    if start:
        task, scene = before.strip() or _SYSTEM, rest.partition(SCENE_END)[0].strip()
    speakers = sorted(set(_SPEAKER.findall(text)), key=lambda name: int(name.removeprefix("SPEAKER")))
    if len(speakers) > 1 and not has_reference:
        task = _SYSTEM_OF_SPEAKERS if task == _SYSTEM else task
        described = [f"{name}: {_KINDS[n % 2]}" for n, name in enumerate(speakers) if f"{name}:" not in scene]
        scene = "\n\n".join(part for part in (scene, "\n".join(described)) if part)
    return System(task, scene)

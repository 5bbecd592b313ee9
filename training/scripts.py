"""Knows what is written for the model to read, and how each of its parts is to be spoken."""

import random
from dataclasses import dataclass

from training.synthesis import PLAIN, Delivery
from training.tags import EMOTIONS, PAUSES, PROSODY, SOUNDS, STYLES, combined, written
from training.texts import TextSource

# Silence between two sentences in seconds.
JOINT_S = 0.4


@dataclass(frozen=True)
class Part:
    """Words that are spoken in one breath, and the silence before them in seconds."""

    text: str
    delivery: Delivery = PLAIN
    pause_s: float = 0.0


@dataclass(frozen=True)
class Script:
    """What is written, with its tags, and the parts that it is spoken in."""

    text: str
    parts: tuple[Part, ...]


class ScriptSource:
    """An endless, seeded stream of scripts; shares of tagged and of joined texts are set by the caller."""

    def __init__(self, texts: TextSource, seed: int, tagged: float, joined: float, whispered: float = 0.1):
        self._texts, self._random = texts, random.Random(seed + 2)
        self._tagged, self._joined, self._whispered = tagged, joined, whispered

    def next(self) -> Script:
        """The next script."""
        chance = self._random.random()
        if chance < self._tagged:
            return self._tagged_script()
        if chance < self._tagged + self._joined:
            return self._joined_script()
        text = self._texts.next()
        return Script(text, (Part(text),))

    def _joined_script(self) -> Script:
        rng = self._random
        texts = [self._texts.next(ending=True) for _ in range(rng.choice((2, 2, 2, 3, 3, 4)))]
        text = " ".join(texts)
        if rng.random() < 0.4:
            return Script(text, (Part(text),))
        pauses = [0.0] + [JOINT_S] * (len(texts) - 1)
        return Script(text, tuple(Part(t, PLAIN, p) for t, p in zip(texts, pauses, strict=True)))

    def _tagged_script(self) -> Script:
        rng, kind = self._random, self._random.random()
        if kind < self._whispered:
            return self._led("style:whispering")
        if kind < self._whispered + 0.05:
            return self._led("style:shouting")
        if kind < 0.54:
            return self._led(rng.choice(list(PROSODY)))
        if kind < 0.70:
            return self._paused()
        if kind < 0.74:
            return self._sounded()
        if kind < 0.79:
            speed = rng.choice([tag for tag in PROSODY if "speed" in tag])
            return self._led(speed, rng.choice([tag for tag in PROSODY if "speed" not in tag]))
        return self._led(rng.choice(list(EMOTIONS)))

    def _led(self, *tags: str) -> Script:
        """A sentence led by its tags, now and then after a plain one."""
        rng, delivery = self._random, PLAIN
        for tag in tags:
            delivery = combined(delivery, (PROSODY | STYLES | EMOTIONS)[tag])
        text = self._texts.next()
        space = rng.choice(("", "", " "))
        led = "".join(map(written, tags)) + space + text
        if rng.random() < 0.85:
            return Script(led, (Part(text, delivery),))
        before = self._texts.next(ending=True)
        return Script(f"{before} {led}", (Part(before), Part(text, delivery, JOINT_S)))

    def _paused(self) -> Script:
        """Silence where a pause tag stands: between two sentences, or after a word."""
        rng, tag = self._random, self._random.choice(list(PAUSES))
        pause_s = PAUSES[tag]
        if rng.random() < 0.4:
            left, right = self._texts.next(ending=True), self._texts.next()
        else:
            words = self._texts.next().split()
            while len(words) < 4:
                words = self._texts.next().split()
            cut = rng.randint(2, len(words) - 1)
            left, right = " ".join(words[:cut]), " ".join(words[cut:])
        before, after = rng.choice(((" ", " "), (" ", " "), ("", " "), (" ", ""), ("", "")))
        return Script(
            f"{left}{before}{written(tag)}{after}{right}", (Part(left), Part(right, PLAIN, pause_s))
        )

    def _sounded(self) -> Script:
        rng, tag = self._random, self._random.choice(list(SOUNDS))
        onomatopoeia, spoken, delivery = SOUNDS[tag]
        text = self._texts.next()
        parts = (Part(spoken, delivery), Part(text, PLAIN, JOINT_S))
        return Script(f"{written(tag)}{onomatopoeia}{rng.choice((', ', '! ', '. '))}{text}", parts)

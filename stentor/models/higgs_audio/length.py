"""How long a text can plausibly take to say: the bound behind the runaway guard."""

import re
import unicodedata

# The bound is meant to be passed by failures only, so every figure is a slow reading with room to spare.
# Readers say about 15 letters a second of English, very slow ones 10; the bound allows 6.5.
_START_S = 3.0
_LETTER_S = 0.15
# A capital may be spelled out, one letter a word ("W" has three syllables).
_CAPITAL_S = 0.5
# "7" in a long number becomes "seven hundred" or "seventy"; "%" becomes a word of two syllables.
_DIGIT_S = 0.8
_SYMBOL_S = 1.0
# Scripts with a syllable or a word per character; a Chinese character may have four morae in Japanese.
_SYLLABLE_S = 0.45
_IDEOGRAPH_S = 0.7
# Pauses: at a comma, at the end of a sentence, at a new line.
_COMMA_S = 0.6
_STOP_S = 1.2
_LINE_S = 1.0
# Tags: by the format's own account a pause lasts up to 0.7 s, a long one 1.5 s; laughter has no limit.
_PAUSES_S = {"prosody:pause": 1.5, "prosody:long_pause": 3.0}
_EFFECT_S = 5.0
# How much longer a text may get under a tag, wherever it stands; the speeds are 0.65 and 0.85 of the usual.
_STRETCH = {"prosody:speed_very_slow": 1 / 0.65, "prosody:speed_slow": 1 / 0.85, "style:singing": 2.0}

# The second version's sounds stand in brackets; music has no words to be measured by.
_SONG_S = 20.0
_SONGS = ("music", "humming", "sing")

_TAG = re.compile(r"<\|(\w+:\w+)\|>")
_SOUND = re.compile(rf"\[(laugh|applause|cheering|cough|{'|'.join(_SONGS)})(?: start)?\]")
_SYMBOLS = frozenset("%$€£¥₩₹&@#+=*/^~°§©®™<>|\\_")


def longest_plausible_s(text: str) -> float:
    """Seconds that `text` can take at the very most, tags (`<|sfx:laughter|>`, `[laugh]`) included.

    Never less than 3 s. An upper bound by rule of thumb, per character and script, two to three times what a
    usual voice takes; a generation that passes it has lost its way.
    """
    tags = _TAG.findall(text)
    spoken = _START_S + sum(_character_s(character) for character in _TAG.sub(" ", text))
    stretch = max([_STRETCH.get(tag, 1.0) for tag in tags], default=1.0)
    paused = sum(_PAUSES_S.get(tag, _EFFECT_S if tag.startswith("sfx:") else 0.0) for tag in tags)
    paused += sum(_SONG_S if sound in _SONGS else _EFFECT_S for sound in _SOUND.findall(text))
    return spoken * stretch + paused


def _character_s(character: str) -> float:
    if "a" <= character <= "z":
        return _LETTER_S
    if character in " \t":
        return 0.0
    if character in "\n\r":
        return _LINE_S
    if character in _SYMBOLS:
        return _SYMBOL_S
    category = unicodedata.category(character)
    if category.startswith("L"):
        return _letter_s(character, category)
    if category.startswith("N"):
        return _DIGIT_S
    if category.startswith("S"):
        return _SYMBOL_S
    if category.startswith("P"):
        return _STOP_S if character in ".!?。！？…।؟;:；：" else _COMMA_S
    # Vowel signs and tones of Indic and South-East Asian scripts.
    return _LETTER_S if category.startswith("M") else 0.0


def _letter_s(character: str, category: str) -> float:
    if category == "Lu":
        return _CAPITAL_S
    name = unicodedata.name(character, "")
    if name.startswith("CJK"):
        return _IDEOGRAPH_S
    if name.startswith(("HANGUL", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "YI", "ETHIOPIC")):
        return _SYLLABLE_S
    return _LETTER_S

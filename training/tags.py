"""Knows what every control tag does to the delivery of the words that follow it."""

from training.synthesis import Delivery

# rate, semitones, spread, gain in dB, tilt in dB per octave
_EMOTIONS: dict[str, tuple[float, float, float, float, float]] = {
    "elation": (1.10, 2.5, 1.6, 2, 1.0),
    "amusement": (1.05, 1.5, 1.5, 1, 0.0),
    "enthusiasm": (1.12, 2.0, 1.7, 3, 1.0),
    "determination": (0.95, -0.5, 1.1, 3, 1.0),
    "pride": (0.93, -1.0, 1.2, 2, 0.0),
    "contentment": (0.93, -0.5, 0.8, -1, -0.5),
    "affection": (0.90, 0.5, 1.1, -2, -1.0),
    "relief": (0.88, -1.0, 1.0, -2, -1.0),
    "contemplation": (0.80, -1.0, 0.6, -2, -1.0),
    "confusion": (0.88, 1.0, 1.4, -1, 0.0),
    "surprise": (1.05, 3.5, 2.0, 2, 0.5),
    "awe": (0.82, -0.5, 1.3, -3, -1.0),
    "longing": (0.82, -1.0, 0.9, -3, -1.5),
    "arousal": (1.00, -1.5, 1.2, -2, -1.0),
    "anger": (1.12, 1.5, 1.5, 5, 2.0),
    "fear": (1.18, 3.0, 0.7, -2, 0.5),
    "disgust": (0.90, -2.0, 1.0, 0, -0.5),
    "bitterness": (0.92, -2.0, 0.7, 0, 0.0),
    "sadness": (0.78, -2.5, 0.5, -4, -2.0),
    "shame": (0.85, -2.0, 0.5, -5, -2.0),
    "helplessness": (0.82, -1.5, 0.6, -4, -1.0),
}
PROSODY = {
    # Further than the tags promise (0.65, 0.85, 1.2, 1.4), because the model goes only part of the way:
    # trained on just these it spoke at 0.74, 0.92, 1.16 and 1.28.
    "prosody:speed_very_slow": Delivery(rate=0.57),
    "prosody:speed_slow": Delivery(rate=0.8),
    "prosody:speed_fast": Delivery(rate=1.24),
    "prosody:speed_very_fast": Delivery(rate=1.5),
    "prosody:pitch_low": Delivery(semitones=-3),
    "prosody:pitch_high": Delivery(semitones=2.5),
    "prosody:expressive_low": Delivery(spread=0.35),
    "prosody:expressive_high": Delivery(spread=2.0),
}
STYLES = {
    "style:whispering": Delivery(whisper=True, tilt=5),
    "style:shouting": Delivery(rate=0.95, semitones=5, spread=1.3, gain_db=5, tilt=2.5),
}
EMOTIONS = {
    f"emotion:{name}": Delivery(rate, semitones, spread, gain_db, tilt)
    for name, (rate, semitones, spread, gain_db, tilt) in _EMOTIONS.items()
}
# Seconds of silence. One length for each, because at low temperatures a model that has to choose the end of a
# silence among many possible frames takes none of them.
PAUSES = {"prosody:pause": 0.5, "prosody:long_pause": 1.08}
# The onomatopoeia that follows the tag, what the synthesiser says for it, and how.
SOUNDS = {
    "sfx:laughter": ("Haha", "ha ha ha", Delivery(rate=1.35, semitones=4, spread=1.6, gain_db=1)),
    "sfx:crying": ("Boohoo", "boo hoo hoo", Delivery(rate=0.75, semitones=4, spread=1.8, gain_db=-2)),
    "sfx:screaming": ("Ahh", "ah", Delivery(rate=0.4, semitones=8, spread=1.2, gain_db=5, tilt=2.5)),
    "sfx:humming": ("Hmm", "mm", Delivery(rate=0.4, semitones=0, spread=0.6, gain_db=-3)),
    "sfx:sigh": ("Ahh", "ha", Delivery(rate=0.35, whisper=True, tilt=2)),
}


def combined(left: Delivery, right: Delivery) -> Delivery:
    """Both deliveries at once."""
    return Delivery(
        left.rate * right.rate, left.semitones + right.semitones, left.spread * right.spread,
        left.gain_db + right.gain_db, left.tilt + right.tilt, left.whisper or right.whisper,
    )  # fmt: skip


def written(tag: str) -> str:
    """A tag as users write it."""
    return f"<|{tag}|>"

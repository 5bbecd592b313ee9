"""Named voices: those beside a checkpoint, and those that users made."""

from stentor.voices.presets import DEFAULT, OPENAI_VOICES
from stentor.voices.store import VoiceStore
from stentor.voices.voice import Voice

__all__ = ["DEFAULT", "OPENAI_VOICES", "Voice", "VoiceStore"]

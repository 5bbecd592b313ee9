"""Whisper: hears what a reference says that came without its words."""

"""Strings in and out: control tags and the length of speech. Knows no models."""

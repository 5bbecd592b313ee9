"""Higgs Audio v3 TTS: a Qwen3 backbone that writes rows of eight codes, and the codec that sounds them."""

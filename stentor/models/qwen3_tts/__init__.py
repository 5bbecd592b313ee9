"""Qwen3-TTS: a talker that says each frame's first code, and a predictor that says the other fifteen."""

"""The codec of Qwen3-TTS (12 Hz): 24 kHz speech as 12.5 frames per second of 16 codes, and back."""

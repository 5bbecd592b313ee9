"""The Higgs audio codec: 24 kHz speech as 25 frames per second of 8 codes, and back."""

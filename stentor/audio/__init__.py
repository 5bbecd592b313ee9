"""Waveforms in and out: load, resample, fetch, encode. Knows no models."""

"""The recipe of the small built-in checkpoint: data, codec, language model, export and evaluation."""

"""Runs stages anywhere: one pipeline, workers as threads or processes, links between them."""

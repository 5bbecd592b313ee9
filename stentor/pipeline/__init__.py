"""Runs stages anywhere and ends every request exactly once."""

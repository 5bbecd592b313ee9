"""Attention by other people's libraries, each behind the one signature; none is needed."""

"""The kinds of work, in request order: preprocess, encode, generate, vocode."""

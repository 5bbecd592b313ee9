"""One folder per model, what they have in common, and the registry that finds them."""

"""Structured pruning: what is left out as a whole, so that the model becomes smaller for whoever serves it."""

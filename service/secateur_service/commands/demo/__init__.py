"""The demonstration: a tiny multilingual model is trained, pruned through the real service, and judged per language."""

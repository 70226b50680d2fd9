"""The demo: trains a tiny multilingual model, prunes it through the real service, and evaluates it per language."""

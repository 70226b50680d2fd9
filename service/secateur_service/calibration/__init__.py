"""Text: corpora in many languages, and the token sequences drawn from them."""

"""Text: corpora of many languages, and the token sequences drawn from them."""

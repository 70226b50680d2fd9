"""How often a language uses each token of a vocabulary, from how often it uses each word.

The words are those of the package `wordfreq` (Speer et al., zenodo.7199437): some forty languages, from web text, news,
subtitles and Wikipedia. A word is encoded as it stands in running text: mostly after a blank, sometimes with a capital,
sometimes at the beginning of a line.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from secateur_service.calibration.tokenizing import tokenize

# Forms of a word, and the share of its occurrences that each is taken to have.
_FORMS: tuple[tuple[Callable[[str], str], float], ...] = (
    (lambda word: f" {word}", 0.80),
    (lambda word: f" {word.capitalize()}", 0.12),
    (lambda word: word, 0.04),
    (lambda word: word.capitalize(), 0.04),
)
_BATCH_WORDS = 8192
# Rarer words, misspelt and foreign ones among them, take most of the time.
_RAREST = 5e-8


def has_words() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("wordfreq") is not None


def words_of(language: str) -> dict[str, float]:
    """Shares of a language's words; empty if nothing is known of it."""
    import wordfreq

    primary = language.partition("-")[0]
    if primary not in wordfreq.available_languages("best"):
        return {}
    return {word: share for word, share in wordfreq.get_frequency_dict(primary, "best").items() if share >= _RAREST}


def token_shares(
    tokenizer: Any, words: dict[str, float], size: int, check: Callable[[], None] = lambda: None
) -> Sequence[float]:
    """The share of each token in text of these words, by its id; sums to one.

    Args:
        tokenizer: a fast tokenizer of transformers.
        words: the share of each.
        size: rows of the vocabulary; tokens beyond them are not counted.
        check: called often; raises to stop.
    """
    shares = [0.0] * size
    entries = list(words.items())
    for start in range(0, len(entries), _BATCH_WORDS):
        check()
        batch = entries[start : start + _BATCH_WORDS]
        for form, part in _FORMS:
            encoded = tokenize(tokenizer, [form(word) for word, _ in batch])["input_ids"]
            for (_, share), tokens in zip(batch, encoded, strict=True):
                for token in tokens:
                    if token < size:
                        shares[token] += part * share
    total = sum(shares)
    return [share / total for share in shares] if total else shares

"""How often a language uses each token of a vocabulary, from how often it uses each word.

The words are those of the package `wordfreq` (Speer et al., zenodo.7199437): some forty languages, from web text, news,
subtitles and Wikipedia. A word is encoded as it stands in running text: mostly after a blank, sometimes at the
beginning of a line.

The package has all words in lower case, but German writes nouns with a capital, and most languages names. So the share
of capitals among rare words is counted in the language's text: one share for words that take fewer tokens with a
capital, one for those that take as many, one for those that take more. A vocabulary holds words in the form in which
they are mostly written.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from secateur_service.calibration.tokenizing import tokenize

# A word after another one, where no sentence begins.
_WITHIN = re.compile(r"(?:(?<=[^\W\d_] )|(?<=[^\W\d_], ))[^\W\d_]{2,}")
_READ_BYTES = 4 << 20
# Words that occur no more often are like those that do not occur, of which nothing else is known.
_RARE = 2
# Of the occurrences of a word: at the beginning of a line, half of them with a capital.
_FIRST = 0.08
# With a capital within a line, for words of which the text has none.
_CAPITAL = 0.1
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


def rare_words(documents: Iterable[str]) -> dict[str, tuple[int, int]]:
    """How often rare words occur within sentences, without and with a capital, by word in lower case.

    Args:
        documents: of one language; a few megabytes are read.
    """
    found: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    left = _READ_BYTES
    for document in documents:
        for word in _WITHIN.findall(document):
            if word.lower() != word.upper():
                found[word[0].isupper()][word.lower()] += 1
        left -= len(document.encode())
        if left <= 0:
            break
    lower, capital = found
    both = {word: (lower[word], capital[word]) for word in {*lower, *capital}}
    return {word: pair for word, pair in both.items() if sum(pair) <= _RARE}


def token_shares(
    tokenizer: Any,
    words: Mapping[str, float],
    size: int,
    rare: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    check: Callable[[], None] = lambda: None,
) -> Sequence[float]:
    """The share of each token in text of these words, by its id; sums to one.

    Args:
        tokenizer: a fast tokenizer of transformers.
        words: the share of each.
        size: rows of the vocabulary; tokens beyond them are not counted.
        rare: see `rare_words`.
        check: called between two pieces of work; raises to stop.
    """
    encoded = dict(zip(words, _forms(tokenizer, list(words), check), strict=True))
    capital = _capital_shares(encoded, rare)
    shares = [0.0] * size
    for word, share in words.items():
        within = (1 - _FIRST) * capital[_gain(encoded[word])]
        parts = (1 - _FIRST - within, within, _FIRST / 2, _FIRST / 2)
        for tokens, part in zip(encoded[word], parts, strict=True):
            for token in tokens:
                if token < size:
                    shares[token] += part * share
    total = sum(shares)
    return [share / total for share in shares] if total else shares


def _forms(tokenizer: Any, words: Sequence[str], check: Callable[[], None]) -> Iterator[tuple[list[int], ...]]:
    """The tokens of each word after a blank, the same with a capital, and both at the beginning of a line."""
    for start in range(0, len(words), _BATCH_WORDS):
        check()
        batch = words[start : start + _BATCH_WORDS]
        capital = [word.capitalize() for word in batch]
        forms = ([f" {word}" for word in batch], [f" {word}" for word in capital], batch, capital)
        yield from zip(*(tokenize(tokenizer, form)["input_ids"] for form in forms), strict=True)


def _gain(forms: Sequence[Sequence[int]]) -> int:
    """1 if a word takes fewer tokens with a capital, -1 if it takes more, else 0."""
    lower, capital = len(forms[0]), len(forms[1])
    return (lower > capital) - (lower < capital)


def _capital_shares(
    encoded: Mapping[str, Sequence[Sequence[int]]], rare: Mapping[str, tuple[int, int]]
) -> dict[int, float]:
    """The share of rare words that have a capital, by what they gain from it."""
    shares: dict[int, list[float]] = {gain: [_CAPITAL] for gain in (-1, 0, 1)}
    for word, (lower, capital) in rare.items():
        if word in encoded:
            shares[_gain(encoded[word])].append(capital / (lower + capital))
    return {gain: sum(found) / len(found) for gain, found in shares.items()}

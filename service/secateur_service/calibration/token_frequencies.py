"""How often a language uses each token of a vocabulary: counted, and guessed where nothing was counted.

A few hundred kilobytes of text do not contain every token that the language needs. So counts are smoothed by absolute
discounting (Ney, Essen and Kneser 1994, "On structuring probabilistic dependences in stochastic language modelling"):
each token that occurs gives up a share d of one occurrence, d = n1 / (n1 + 2 n2) for n1 tokens that occur once and n2
that occur twice, and a prior distributes what was given up. The prior gives tokens that the language's letters spell a
weight of rank^-s, in the order in which the tokenizer learnt them (Zipf's law); s is the one by which the halves of the
text foretell each other best. Where more is known, what a model expects (`pipeline.expected_tokens`) or the frequencies
of the language's words (`word_frequencies`), that is the prior, with a little of the other, and what was given up goes
to tokens that do not occur: those that occur are the commonest, and would take nearly all of it.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur_service.calibration.tokenizing import tokenize

_BATCH_CHARACTERS = 1 << 17
# Letters that make up less of a text come from names and quotations of other languages.
_FOREIGN_SHARE = 5e-5
# A script with so many letters in use has more that the text only happens not to show, as the Chinese one.
_LARGE_SCRIPT = 400
# What a token that the language's letters do not spell weighs beside one that they do.
_FOREIGN_PRIOR = 1e-3
_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_SHARE_OF_KNOWN = 0.99
# Occurrences that are given up at the least, so that every token stays possible.
_LEAST_GIVEN_UP = 1.0


@dataclass(frozen=True)
class TokenCounts:
    """How often tokens occur in the text of a language.

    Attributes:
        halves: occurrences by token id, in either half of the documents.
        letters: occurrences of each letter.
        num_bytes: of the text, in UTF-8.
    """

    halves: tuple[list[int], list[int]]
    letters: Mapping[str, int]
    num_bytes: int

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return sum(map(sum, self.halves))


def count_tokens(
    tokenizer: Any, documents: Iterable[str], size: int, check: Callable[[], None] = lambda: None
) -> TokenCounts:
    """Count the tokens of documents; every other one belongs to the second half.

    Args:
        tokenizer: a fast tokenizer of transformers.
        documents: of one language.
        size: rows of the vocabulary; special tokens beyond them are not counted.
        check: called often; raises to stop.
    """
    halves: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    letters: Counter[str] = Counter()
    num_bytes = 0
    batch: list[str] = []

    def flush() -> None:
        check()
        for at, tokens in enumerate(tokenize(tokenizer, batch)["input_ids"] if batch else ()):
            halves[at % 2].update(tokens)
        batch.clear()

    held = 0
    for document in documents:
        letters.update(document)
        num_bytes += len(document.encode())
        batch.append(document)
        held += len(document)
        if held >= _BATCH_CHARACTERS:
            flush()
            held = 0
    flush()
    dense = tuple([half[number] for number in range(size)] for half in halves)
    letters = Counter({letter: count for letter, count in letters.items() if letter.isalpha()})
    return TokenCounts((dense[0], dense[1]), letters, num_bytes)


def token_frequencies(counts: TokenCounts, texts: Sequence[str], known: Sequence[float] | None = None) -> list[float]:
    """How often each token is expected to occur in text of the language; shares of one.

    Args:
        counts: of text of the language.
        texts: what each token stands for, by its id; empty for those that stand for no text.
        known: the share of each token by what else is known of the language: by its words, or by a model.
    """
    native = _native(counts.letters, texts)
    priors = [_prior(native, exponent) for exponent in _EXPONENTS]
    first, second = counts.halves
    prior = min(priors, key=lambda each: _surprise(first, second, each) + _surprise(second, first, each))
    total = [sum(pair) for pair in zip(first, second, strict=True)]
    return _smoothed(total, prior if known is None else _of_unseen(total, prior, known))


def _of_unseen(counts: Sequence[int], prior: Sequence[float], known: Sequence[float]) -> list[float]:
    """The known shares of tokens that do not occur, with a little of the prior; shares of one."""
    unseen = [
        0.0 if count else (1 - _SHARE_OF_KNOWN) * share + _SHARE_OF_KNOWN * other
        for count, share, other in zip(counts, prior, known, strict=True)
    ]
    mass = sum(unseen)
    return [share / mass for share in unseen] if mass else list(prior)


def _smoothed(counts: Sequence[int], prior: Sequence[float]) -> list[float]:
    """Shares of one, by absolute discounting."""
    total = float(sum(counts))
    if not total:
        return list(prior)
    once, twice = counts.count(1), counts.count(2)
    discount = once / (once + 2 * twice) if once else 0.0
    given_up = max(discount * sum(map(bool, counts)), _LEAST_GIVEN_UP)
    total += given_up - discount * sum(map(bool, counts))
    return [(max(count - discount, 0.0) + given_up * share) / total for count, share in zip(counts, prior, strict=True)]


def _surprise(known: Sequence[int], foretold: Sequence[int], prior: Sequence[float]) -> float:
    """Nats of the tokens of one text by what is known of another."""
    shares = _smoothed(known, prior)
    return -sum(count * math.log(share) for count, share in zip(foretold, shares, strict=True) if count)


def _native(letters: Mapping[str, int], texts: Sequence[str]) -> list[bool]:
    """Whether the letters of a language spell a token."""
    used = _alphabet(letters)
    scripts = Counter(_script(letter) for letter in used)
    large = {script for script, count in scripts.items() if count >= _LARGE_SCRIPT}

    def is_known(letter: str) -> bool:
        return letter in used or letter.lower() in used or letter.upper() in used or _script(letter) in large

    return [bool(text) and all(is_known(letter) for letter in text if letter.isalpha()) for text in texts]


def _prior(native: Sequence[bool], exponent: float) -> list[float]:
    """Zipf's law over the tokens that the language's letters spell, in the order of their ids."""
    weights, rank = [], 0
    for spelled in native:
        rank += spelled
        weights.append((1.0 if spelled else _FOREIGN_PRIOR) * (rank + 1.0) ** -exponent)
    total = sum(weights)
    return [weight / total for weight in weights]


def _alphabet(letters: Mapping[str, int]) -> set[str]:
    """The letters of a text without the rarest."""
    least = _FOREIGN_SHARE * sum(letters.values())
    return {letter for letter, count in letters.items() if count >= least}


def _script(letter: str) -> str:
    """The script of a letter, as the first word of its name in Unicode."""
    return unicodedata.name(letter, "").partition(" ")[0].partition("-")[0]

"""Checks whether text is in its claimed language, by guessing for each document (py3langid, naive Bayes over bytes).

The guess is right for 95 to 100 of 100 short sentences in well-known languages, so a few hundred documents are enough
to detect a file with the wrong name. It knows some 140 languages, and is not used for others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import langcodes

MOST_DOCUMENTS = 200
# The beginning of a long document is enough.
_MOST_CHARACTERS = 2000
# In langcodes' distance, Norwegian and Danish are 12 apart, Indonesian and Malay 14; pairs whose readers read both,
# however different the languages, are 20 apart: Basque and Spanish, Hawaiian and English.
_NEAR = 14
_PART_OF = {"arz": "ar", "ary": "ar", "wuu": "zh", "yue": "zh", "hr": "sr", "bs": "sr", "nn": "no", "ms": "id"}
# Text in an unusual script, such as romanised Hindi, cannot be identified; these exceptions can.
_ALSO_WRITTEN = {("sr", "Latn"), ("zh", "Hant")}


@dataclass(frozen=True)
class Identified:
    """What language documents seem to be in.

    Attributes:
        documents: how many were examined.
        share: the share that seems to be in the claimed language.
        other: the most frequent other language, an ISO 639 tag; empty if there is none.
        other_share: its share.
    """

    documents: int
    share: float
    other: str
    other_share: float


def identify(language: str, documents: Sequence[str]) -> Identified | None:
    """Guess the language of documents; None if the claimed language cannot be identified.

    Args:
        language: the claimed BCP 47 tag.
        documents: only the first of them are examined.
    """
    guesser = _guesser()
    if _is_transcribed(language) or not any(_is_same(language, str(label)) for label in guesser.labels):
        return None
    guesses = Counter(str(guesser.classify(text[:_MOST_CHARACTERS])[0]) for text in islice(documents, MOST_DOCUMENTS))
    total = guesses.total()
    if not total:
        return None
    others = [(count, label) for label, count in guesses.items() if not _is_same(language, label)]
    most, other = max(others, default=(0, ""))
    return Identified(total, 1 - sum(count for count, _ in others) / total, other, most / total)


@cache
def _guesser() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


def _is_transcribed(language: str) -> bool:
    tag = langcodes.Language.get(language)
    usual = langcodes.Language.get(str(tag.language)).maximize().script
    return tag.script not in (None, usual) and (tag.language, tag.script) not in _ALSO_WRITTEN


@cache
def _is_same(language: str, label: str) -> bool:
    known, guessed = (str(langcodes.Language.get(tag).language) for tag in (language, label))
    if _PART_OF.get(known, known) == _PART_OF.get(guessed, guessed):
        return True
    return langcodes.tag_distance(known, guessed) <= _NEAR

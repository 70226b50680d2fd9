"""Whether text is in the language that it claims, by a guess at each document (py3langid, a naive Bayes over bytes).

The guess is right for 95 to 100 of 100 short sentences of well-known languages, so that a few hundred documents tell a
file with the wrong name from one with the right one. It knows some 140 languages, and is not asked about others.
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
# Of a long document the beginning tells enough.
_MOST_CHARACTERS = 2000
# As langcodes measures it: Norwegian and Danish are 12 apart, Indonesian and Malay 14, and 20 those whose readers read
# both, however different they are: Basque and Spanish, Hawaiian and English.
_NEAR = 14
_PART_OF = {"arz": "ar", "ary": "ar", "wuu": "zh", "yue": "zh", "hr": "sr", "bs": "sr", "nn": "no", "ms": "id"}
# What is written in another script than usual, such as romanised Hindi, cannot be told; but this can.
_ALSO_WRITTEN = {("sr", "Latn"), ("zh", "Hant")}


@dataclass(frozen=True)
class Identified:
    """What language some documents seem to be in.

    Attributes:
        documents: how many were looked at.
        share: of those that seem to be in the language that they claim.
        other: the most frequent other language, a tag of ISO 639; empty where there is none.
        other_share: its share.
    """

    documents: int
    share: float
    other: str
    other_share: float


def identify(language: str, documents: Sequence[str]) -> Identified | None:
    """Guess at documents; None where the language is not one of those that can be told.

    Args:
        language: BCP 47 tag that they claim.
        documents: of which the first are looked at.
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

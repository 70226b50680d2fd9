"""Checks whether text is in its claimed language, by guessing for each document (py3langid, naive Bayes over bytes).

The guess is right for 95 to 100 of 100 short sentences in well-known languages, so a few hundred documents are enough
to detect a file with the wrong name. It knows some 140 languages, and is not used for others. Of those, the script may
still tell that a text is in another one.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import langcodes

from secateur_service.calibration.languages import script_of

MOST_DOCUMENTS = 200
LEAST_BYTES = 40
"""Of letters, in UTF-8, for a text to be judged alone: of so many, cut anywhere, 93 to 100 % are identified rightly."""
# The beginning of a long document is enough.
_MOST_CHARACTERS = 2000
# In langcodes' distance, Norwegian and Danish are 12 apart, Indonesian and Malay 14; pairs whose readers read both,
# however different the languages, are 20 apart: Basque and Spanish, Hawaiian and English.
_NEAR = 14
_PART_OF = {"arz": "ar", "ary": "ar", "wuu": "zh", "yue": "zh", "hr": "sr", "bs": "sr", "nn": "no", "ms": "id"}
# Text in an unusual script, such as romanised Hindi, cannot be identified; these exceptions can.
_ALSO_WRITTEN = {("sr", "Latn"), ("zh", "Hant")}
# With what Unicode's names of a script's letters begin; other scripts are not told apart.
_LETTERS = {
    "Latn": ("LATIN",),
    "Cyrl": ("CYRILLIC",),
    "Grek": ("GREEK",),
    "Armn": ("ARMENIAN",),
    "Geor": ("GEORGIAN",),
    "Hebr": ("HEBREW",),
    "Arab": ("ARABIC",),
    "Thaa": ("THAANA",),
    "Syrc": ("SYRIAC",),
    "Ethi": ("ETHIOPIC",),
    "Deva": ("DEVANAGARI",),
    "Beng": ("BENGALI",),
    "Guru": ("GURMUKHI",),
    "Gujr": ("GUJARATI",),
    "Orya": ("ORIYA",),
    "Taml": ("TAMIL",),
    "Telu": ("TELUGU",),
    "Knda": ("KANNADA",),
    "Mlym": ("MALAYALAM",),
    "Sinh": ("SINHALA",),
    "Thai": ("THAI",),
    "Laoo": ("LAO",),
    "Tibt": ("TIBETAN",),
    "Mymr": ("MYANMAR",),
    "Khmr": ("KHMER",),
    "Mong": ("MONGOLIAN",),
    "Tfng": ("TIFINAGH",),
    "Olck": ("OL CHIKI",),
    "Nkoo": ("NKO",),
    "Hans": ("CJK",),
    "Hant": ("CJK",),
    "Jpan": ("CJK", "HIRAGANA", "KATAKANA"),
    "Kore": ("HANGUL", "CJK"),
}


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


def off_language(language: str, texts: Sequence[str]) -> tuple[int, int]:
    """How many texts do not seem to be in a language, and of how many that can be told.

    The language is guessed; if the claimed one cannot be identified, a text counts if half of its letters or more are
    in another script. Texts of a few letters, each word counted once, say too little and are left out: a guess at what
    only repeats itself is often wrong.

    Args:
        language: the canonical BCP 47 tag.
        texts: of a sentence or so each.
    """
    judged = [text for text in texts if len("".join(set(_words(text))).encode()) >= LEAST_BYTES]
    found = identify(language, judged) if judged else None
    if found is not None:
        return round((1 - found.share) * found.documents), found.documents
    names = _LETTERS.get(script_of(language) or "")
    return (sum(not _is_written_with(names, text) for text in judged), len(judged)) if names else (0, 0)


def _words(text: str) -> list[str]:
    """What stands between anything but letters and their marks."""
    return "".join(character if unicodedata.category(character)[0] in "LM" else " " for character in text).split()


def _is_written_with(names: tuple[str, ...], text: str) -> bool:
    letters = [unicodedata.name(character, "") for character in text if character.isalpha()]
    return 2 * sum(name.startswith(names) for name in letters) > len(letters)


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

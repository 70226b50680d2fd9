"""Languages by the canonical form of their BCP 47 tags, with the spelling that the user chose.

A specification, a corpus's files and a preset's table may spell a language in many ways; all comparisons of languages
use the form of `secateur._language`. It is computed once, when a specification is read.

Does not import torch.
"""

from __future__ import annotations

import langcodes

from secateur._language import UNKNOWN, canonical_tag, likely_script

# Scripts in use that are written from right to left.
_RIGHT_TO_LEFT = frozenset({"Adlm", "Arab", "Aran", "Hebr", "Mand", "Nkoo", "Rohg", "Samr", "Syrc", "Thaa"})


class Language(str):
    """A language in its canonical form.

    Attributes:
        spelling: what the user wrote.
    """

    __slots__ = ("spelling",)
    spelling: str


def parse_language(tag: str) -> Language:
    """Parse any tag of a language.

    Raises:
        ValueError: BCP 47 knows no such language.
    """
    canonical = canonical_tag(str(tag))
    if canonical is None:
        raise ValueError(UNKNOWN)
    language = Language(canonical)
    language.spelling = spelling_of(tag)
    return language


def spelling_of(language: str) -> str:
    """How the user spelled a language; the tag itself if there was no other spelling."""
    return language.spelling if isinstance(language, Language) else language


def script_of(language: str) -> str | None:
    """The script of a canonical tag: the one it names, or the one that language and region imply.

    None if it is unknown: not every language is in CLDR's likely subtags.
    """
    parsed = langcodes.Language.get(language)
    return parsed.script or likely_script(parsed.language, parsed.territory)


def is_right_to_left(language: str) -> bool:
    """Whether text of a language, by its canonical tag, runs from right to left."""
    return script_of(language) in _RIGHT_TO_LEFT


def without_region(language: str) -> str:
    """The canonical tag of the same language in the same script, without region and variant."""
    parsed = langcodes.Language.get(language)
    if parsed.language is None:
        return language
    return parse_language(langcodes.Language.make(language=parsed.language, script=script_of(language)).to_tag())

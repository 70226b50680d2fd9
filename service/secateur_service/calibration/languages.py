"""One name per language: the canonical form of a BCP 47 tag.

A specification, a corpus's files and a preset's table may spell a language in many ways; all comparisons of languages
use this form. It is computed once, when a specification is read:

- case, deprecated tags and long codes as in BCP 47 (`DE` is de, `iw` he, `deu` de, `sh` sr-Latn);
- the common code for the main member of a macrolanguage (`cmn` is zh, `arb` ar, `swh` sw). `nb` is `no`: Norwegian
  corpora use either, and mean Bokmål; `nn` is a different language;
- the script, only if it is not the language's usual one. A region can imply a script, by CLDR's likely subtags: `zh-TW`
  is zh-Hant-TW, `sr-ME` sr-Latn-ME, `zh-Hans` zh.

Does not import torch.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import langcodes
from langcodes.data_dicts import LIKELY_SUBTAGS, NORMALIZED_MACROLANGUAGES

_ISO_639_1 = 2
# Scripts in use that are written from right to left.
_RIGHT_TO_LEFT = frozenset({"Adlm", "Arab", "Aran", "Hebr", "Mand", "Nkoo", "Rohg", "Samr", "Syrc", "Thaa"})
_members = Counter(NORMALIZED_MACROLANGUAGES.values())
_COMMON_CODES = {
    member: macro
    for member, macro in NORMALIZED_MACROLANGUAGES.items()
    # If a macrolanguage has several members (Twi and Fante are Akan), or a little-known code, they stay separate.
    if len(macro) == _ISO_639_1 and _members[macro] == 1
} | {"nb": "no"}


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
    canonical = _canonical(str(tag))
    if canonical is None:
        raise ValueError("is not a language that BCP 47 knows")
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
    return parsed.script or _likely_script(parsed.language, parsed.territory)


def is_right_to_left(language: str) -> bool:
    """Whether text of a language, by its canonical tag, runs from right to left."""
    return script_of(language) in _RIGHT_TO_LEFT


def without_region(language: str) -> str:
    """The canonical tag of the same language in the same script, without region and variant."""
    parsed = langcodes.Language.get(language)
    if parsed.language is None:
        return language
    return parse_language(langcodes.Language.make(language=parsed.language, script=script_of(language)).to_tag())


@lru_cache(maxsize=4096)
def _canonical(tag: str) -> str | None:
    if not langcodes.tag_is_valid(tag):
        return None
    parsed = langcodes.Language.get(langcodes.standardize_tag(tag))
    language = _COMMON_CODES.get(str(parsed.language), parsed.language)
    script = parsed.script or _likely_script(language, parsed.territory)
    usual = _likely_script(language, None)
    if script == usual and script == _likely_script(language, parsed.territory):
        script = None
    return parsed.update_dict({"language": language, "script": script}).to_tag()


def _likely_script(language: str | None, region: str | None) -> str | None:
    """The script according to CLDR's likely subtags; None for a language that it does not know."""
    likely = LIKELY_SUBTAGS.get(f"{language}-{region}") or LIKELY_SUBTAGS.get(str(language))
    return langcodes.Language.get(likely, normalize=False).script if likely else None

"""One name per language: the rule that a gate and the service share.

The canonical form of a BCP 47 tag:

- case, deprecated tags and long codes as in BCP 47 (`DE` is de, `iw` he, `deu` de, `sh` sr-Latn);
- the common code for the main member of a macrolanguage (`cmn` is zh, `arb` ar, `swh` sw). `nb` is `no`: Norwegian
  corpora use either, and mean Bokmål; `nn` is a different language;
- the script, only if it is not the language's usual one. A region can imply a script, by CLDR's likely subtags: `zh-TW`
  is zh-Hant-TW, `sr-ME` sr-Latn-ME, `zh-Hans` zh.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import langcodes
from langcodes.data_dicts import LIKELY_SUBTAGS, NORMALIZED_MACROLANGUAGES

UNKNOWN = "is not a language that BCP 47 knows"
_ISO_639_1 = 2
_members = Counter(NORMALIZED_MACROLANGUAGES.values())
_COMMON_CODES = {
    member: macro
    for member, macro in NORMALIZED_MACROLANGUAGES.items()
    # If a macrolanguage has several members (Twi and Fante are Akan), or a little-known code, they stay separate.
    if len(macro) == _ISO_639_1 and _members[macro] == 1
} | {"nb": "no"}


@lru_cache(maxsize=4096)
def canonical_tag(tag: str) -> str | None:
    """The canonical form of any tag of a language; None if BCP 47 knows no such language."""
    if not langcodes.tag_is_valid(tag):
        return None
    parsed = langcodes.Language.get(langcodes.standardize_tag(tag))
    language = _COMMON_CODES.get(str(parsed.language), parsed.language)
    # Standardising drops a script that is usual for the language, but with a region another one may be.
    script = langcodes.Language.get(tag).script or parsed.script or likely_script(language, parsed.territory)
    usual = likely_script(language, None)
    if script == usual and script == likely_script(language, parsed.territory):
        script = None
    return parsed.update_dict({"language": language, "script": script}).to_tag()


def likely_script(language: str | None, region: str | None) -> str | None:
    """The script according to CLDR's likely subtags; None for a language that it does not know."""
    likely = LIKELY_SUBTAGS.get(f"{language}-{region}") or LIKELY_SUBTAGS.get(str(language))
    return langcodes.Language.get(likely, normalize=False).script if likely else None

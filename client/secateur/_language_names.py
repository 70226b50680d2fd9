"""Languages in words, and which language somebody meant who wrote no tag of one.

The names are those of IANA's registry and the languages of countries CLDR's, both of which langcodes brings; the names
that languages have for themselves are below.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection
from functools import cache
from itertools import chain
from pathlib import Path

import langcodes
from langcodes.data_dicts import LANGUAGE_ALPHA3, LIKELY_SUBTAGS
from langcodes.util import data_filename

from secateur._language import UNKNOWN, canonical_tag
from secateur._suggestions import did_you_mean

_ENTRY = re.compile(r"^Type: (language|script|region)\nSubtag: (\S+)\n((?:(?:Description: |  ).*\n)+)", re.MULTILINE)
_ASIDE = re.compile(r"\s*\(([^)]*)\)")
# Where the registry's name is not the one that people use.
_USUAL = {"el": "Greek", "Hans": "Simplified", "Hant": "Traditional", "TW": "Taiwan", "KR": "South Korea"}
_OWN = {
    "ar": "العربية", "be": "беларуская", "bg": "български", "bn": "বাংলা", "ca": "català", "cs": "čeština",
    "cy": "cymraeg", "da": "dansk", "de": "deutsch", "el": "ελληνικά", "es": "español", "et": "eesti",
    "eu": "euskara", "fa": "فارسی", "fi": "suomi", "fr": "français", "ga": "gaeilge", "he": "עברית", "hi": "हिन्दी",
    "hr": "hrvatski", "hu": "magyar", "id": "bahasa indonesia", "is": "íslenska", "it": "italiano", "ja": "日本語",
    "ka": "ქართული", "ko": "한국어", "lt": "lietuvių", "lv": "latviešu", "nl": "nederlands", "no": "norsk",
    "pl": "polski", "pt": "português", "ro": "română", "ru": "русский", "rw": "ikinyarwanda", "sk": "slovenčina",
    "sl": "slovenščina", "sr": "српски", "sv": "svenska", "sw": "kiswahili", "ta": "தமிழ்", "th": "ไทย",
    "tr": "türkçe", "uk": "українська", "ur": "اردو", "vi": "tiếng việt", "zh": "中文",
}  # fmt: skip
_OTHER_NAMES = {"mandarin": "zh", "farsi": "fa", "persian": "fa", "flemish": "nl", "brazilian": "pt-BR"}
_MOST = 3
_LEAST_LETTERS = 4
_FEW = 64  # so that a list of unknown languages takes no time to speak of
_NEAR = 10  # langcodes' distance: Swiss German and German are 4 apart, Ukrainian and Russian 20


def language_name(tag: str) -> str:
    """The English name of a language, with its region or else its unusual script; empty for what is no language."""
    canonical = canonical_tag(tag)
    if canonical is None:
        return ""
    parsed = langcodes.Language.get(canonical)
    where = ("region", parsed.territory) if parsed.territory else ("script", parsed.script)
    subtags = [(kind, subtag) for kind, subtag in (("language", parsed.language), where) if subtag]
    return ", ".join(_first(_names().get(key, key[1])) for key in subtags)


def in_words(tag: str) -> str:
    """A language for people: its tag and its name, such as `de (German)`."""
    name = language_name(tag)
    return f"{tag} ({name})" if name else tag


def meant_languages(text: str) -> list[str]:
    """The languages that somebody meant who wrote no tag: by a name, by a country, or by how names begin."""
    plain = _plain(text)
    named = _by_name()
    if plain in named:
        return [named[plain]]
    found = []
    if len(plain) >= _LEAST_LETTERS:
        found = [named[name] for name in difflib.get_close_matches(plain, named, n=1, cutoff=0.8)]
    elif len(plain) > 1:
        begun = sorted({tag for name, tag in named.items() if name.startswith(plain) and tag in _common()})
        found = begun if len(begun) <= _MOST else []
    base = re.split("[-_]", text.strip())[0]
    found += [tag for tag in (_of_country(plain), canonical_tag(base) if base != text else None) if tag]
    return list(dict.fromkeys(found))[:_MOST]


def nearest_languages(tag: str, among: Collection[str]) -> list[str]:
    """Those of some languages that somebody may have meant by the tag of another."""
    few = [str(known) for known in among] if len(among) <= _FEW else []
    near, _ = langcodes.closest_match(tag, few, max_distance=_NEAR)
    found = [near, _of_country(tag) or near]
    return [name for name in dict.fromkeys(found) if name in among and name != tag]


def language_fault(text: str) -> str | None:
    """Why a text names no language, with the one that was meant; None if it names one."""
    if canonical_tag(text) is not None:
        return None
    question = did_you_mean(list(map(in_words, meant_languages(text))))
    return f"{text!r} {UNKNOWN}; {question or 'expected a tag such as de'}"


def _of_country(code: str) -> str | None:
    """The most spoken language of a country, by its two letters."""
    likely = LIKELY_SUBTAGS.get(f"und-{code.upper()}")
    return canonical_tag(likely.partition("-")[0]) if likely else None


@cache
def _names() -> dict[tuple[str, str], str]:
    """The registry's descriptions by the kind and the subtag."""
    registry = Path(data_filename("language-subtag-registry.txt")).read_text(encoding="utf-8")
    names = {}
    for kind, subtag, described in _ENTRY.findall(registry):
        usual = _USUAL.get(subtag)
        names[kind, subtag] = f"Description: {usual}\n{described}" if usual else described
    return names


@cache
def _common() -> frozenset[str]:
    """Languages that have a code of two letters."""
    return frozenset(filter(None, map(canonical_tag, LANGUAGE_ALPHA3)))


@cache
def _by_name() -> dict[str, str]:
    """Common languages by the plain form of each of their names; the languages' own names win."""
    names = _names()
    found: dict[str, str] = {}
    for tag in sorted(_common()):
        for name in re.findall("Description: (.*)", names.get(("language", tag), "")):
            found.setdefault(_plain(_ASIDE.sub("", name)), tag)
    own = {_plain(name): tag for tag, name in _OWN.items()}
    return {**found, **own, **_OTHER_NAMES}


def _first(described: str) -> str:
    """The first of a subtag's descriptions, without what it says in brackets."""
    return _ASIDE.sub("", described.removeprefix("Description: ").partition("\n")[0])


def _plain(name: str) -> str:
    """A name without case, accents and spaces at its ends."""
    parts = unicodedata.normalize("NFD", name.casefold().strip())
    return "".join(chain(part for part in parts if not unicodedata.combining(part)))

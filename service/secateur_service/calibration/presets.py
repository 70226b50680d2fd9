"""Presets: short names for multilingual corpora of the hub, with the data set's configuration for each language.

A specification names one as `mc4`, or `mc4@revision`; `presets.toml` is the table. Whether the table matches the hub
can only be checked online: `secateur-service presets --check` does.

Does not import torch or `datasets`: the API uses it to immediately refuse a language that a preset lacks.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from secateur._language_names import in_words, nearest_languages
from secateur._suggestions import close_to, did_you_mean
from secateur_service.calibration.documents import CorpusRefusedError
from secateur_service.calibration.languages import parse_language, script_of, spelling_of, without_region

DEFAULT_PRESET = "mc4"
_REFERENCE = re.compile(r"(?P<name>[a-z0-9-]{1,32})(@(?P<revision>[A-Za-z0-9][\w-]*(\.[\w-]+)*))?", re.ASCII)
_MOST_CHARACTERS = 255


@dataclass(frozen=True)
class Preset:
    """A corpus of the hub.

    Attributes:
        name: its name in specifications.
        title: its display name.
        repository: `org/name` of the data set.
        split: the part of it that is drawn from.
        text_field: the column with the text.
        license: as stated on the data set's card.
        gated: whether its terms have to be accepted with a hub account.
        source: where the names of the configurations come from.
        verified: whether they were checked against the live hub.
        configurations: the data set's configurations, by language in canonical form.
    """

    name: str
    title: str
    repository: str
    split: str
    text_field: str
    license: str
    gated: bool
    source: str
    verified: bool
    configurations: Mapping[str, str]

    def configuration(self, language: str) -> str:
        """The configuration for any tag of a language.

        A regional variant (`pt-BR`) uses that of its language, in the script that the region implies: `zh-TW` uses that
        of `zh-Hant`, and has none where there is only `zh`.

        Raises:
            CorpusRefusedError: the preset lacks the language, or lacks it in this script.
        """
        canonical = parse_language(language)
        for name in (canonical, without_region(canonical)):
            if name in self.configurations:
                return self.configurations[name]
        base, script = canonical.partition("-")[0], script_of(canonical)
        # For some languages only the data set states the script.
        if script_of(base) is None and self.configurations.get(base, "").endswith(f"_{script}"):
            return self.configurations[base]
        near = sorted(known for known in self.configurations if known.partition("-")[0] == base)
        if script is None and len(near) == 1:
            return self.configurations[near[0]]
        hint = f"it has {', '.join(near)}" if near else "`secateur info` lists the languages of every preset"
        if meant := nearest_languages(language, self.configurations):
            hint = did_you_mean(list(map(in_words, meant)))
        spelling = spelling_of(language)
        wanted = spelling if not near or script is None else f"{spelling} in the script {script}"
        raise CorpusRefusedError(f"{self.name} has no {wanted}; {hint}")


@dataclass(frozen=True)
class PresetReference:
    """A preset at a revision of its data set; the main branch by default."""

    preset: Preset
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.preset.name}@{self.revision}" if self.revision else self.preset.name


@cache
def presets() -> Mapping[str, Preset]:
    """All presets by name."""
    table = tomllib.loads(resources.files(__package__).joinpath("presets.toml").read_text(encoding="utf-8"))
    return {name: Preset(name=name, **entries) for name, entries in table.items()}


def parse_preset(corpus: str) -> PresetReference | None:
    """The preset that a specification names; None where it names a location instead.

    Raises:
        CorpusRefusedError: it is neither a location nor a preset.
    """
    if "://" in corpus:
        return None
    match = _REFERENCE.fullmatch(corpus) if len(corpus) <= _MOST_CHARACTERS else None
    preset = presets().get(match["name"]) if match else None
    if match is None or preset is None:
        meant = close_to(corpus.partition("@")[0], presets()) if len(corpus) <= _MOST_CHARACTERS else None
        remedy = (
            f"use one of {', '.join(presets())}, or a place: hf://datasets/org/name, s3://bucket/prefix or "
            "file:///absolute/path"
        )
        raise CorpusRefusedError(f"no such preset; {did_you_mean([meant]) if meant else remedy}")
    return PresetReference(preset, match["revision"])

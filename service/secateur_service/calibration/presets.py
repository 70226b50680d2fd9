"""Presets: multilingual corpora of the hub by a short name, with the configuration of the data set for each language.

A specification names one as `mc4`, or `mc4@revision`; `presets.toml` is the table. Whether the hub has what the table
says can only be asked online: `secateur-service presets --check` does.

Does not import torch or `datasets`: the API uses it to refuse a language that a preset does not have at once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import langcodes

from secateur_service.calibration.corpora import CorpusRefusedError

DEFAULT_PRESET = "mc4"
_ALSO_CALLED = {"nb": "no", "no": "nb"}  # corpora of Norwegian say either, and mean Bokmål
_REFERENCE = re.compile(r"(?P<name>[a-z0-9-]{1,32})(@(?P<revision>[A-Za-z0-9][\w-]*(\.[\w-]+)*))?", re.ASCII)
_MOST_CHARACTERS = 255


@dataclass(frozen=True)
class Preset:
    """A corpus of the hub.

    Attributes:
        name: as specifications name it.
        title: for people.
        repository: `org/name` of the data set.
        split: the part of it that is drawn from.
        text_field: the column with the text.
        license: as the data set's card says it.
        gated: whether its terms have to be accepted with a hub account.
        source: where the names of the configurations were read.
        verified: whether they were checked against the live hub.
        configurations: of the data set, by BCP 47 language.
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
        """The configuration for a language. A region's variant (`pt-BR`) has that of its language.

        Raises:
            CorpusRefusedError: the preset does not have the language, or not in this script.
        """
        tag = langcodes.Language.get(langcodes.standardize_tag(language, macro=True))
        candidates = [language, tag.to_tag(), f"{tag.language}-{tag.script}"]
        if tag.script in (None, langcodes.Language.get(str(tag.language)).maximize().script):
            candidates += [str(tag.language), _ALSO_CALLED.get(str(tag.language), "")]
        found = next((name for name in candidates if name in self.configurations), None)
        if found is None:
            near = sorted(known for known in self.configurations if known.partition("-")[0] == tag.language)
            if len(near) != 1 or tag.script is not None:
                hint = f"it has {', '.join(near)}" if near else "`secateur info` lists the languages of every preset"
                raise CorpusRefusedError(f"{self.name} has no {language}; {hint}")
            found = near[0]
        return self.configurations[found]


@dataclass(frozen=True)
class PresetReference:
    """A preset at a revision of its data set; the main branch where none is named."""

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
    """The preset that a specification names; None where it names a place instead.

    Raises:
        CorpusRefusedError: neither a place nor a preset.
    """
    if "://" in corpus:
        return None
    match = _REFERENCE.fullmatch(corpus) if len(corpus) <= _MOST_CHARACTERS else None
    preset = presets().get(match["name"]) if match else None
    if match is None or preset is None:
        raise CorpusRefusedError(
            f"no such preset; use one of {', '.join(presets())}, or a place: hf://datasets/org/name, "
            "s3://bucket/prefix or file:///absolute/path"
        )
    return PresetReference(preset, match["revision"])

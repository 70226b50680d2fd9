"""The license that a model's card declares, as far as a hub accepts it. Imports no torch.

The card is untrusted input. Its front matter is read with limits, and only as strings: no dates, no numbers, no tags.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from ruamel.yaml import YAML

_MAX_FRONT_MATTER_BYTES = 2**17
_FRONT_MATTER = re.compile(rb"\A(?:\xef\xbb\xbf)?\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_NAME = re.compile(r"[a-z0-9][a-z0-9._+-]{0,95}")
_MAX_LINK = 500
_OTHER = "other"
_LINKED_FILES = ("LICENSE", "LICENSE.md")

# https://huggingface.co/docs/hub/repositories-licenses
_LISTED = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
eupl-1.1 gemma gfdl gpl gpl-2.0 gpl-3.0 intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1
llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 other pddl
postgresql unknown unlicense wtfpl zlib
"""
IDENTIFIERS = frozenset(_LISTED.split())
"""Identifiers of the licenses that a hub knows."""


class UnreadableCardError(ValueError):
    """The front matter of a card cannot be read; the message says why."""


@dataclass(frozen=True)
class License:
    """A license in the terms of a hub.

    Attributes:
        identifier: one of `IDENTIFIERS`.
        name: its name, where the identifier is `other`.
        link: an address, or the name of a file beside the card.
    """

    identifier: str
    name: str | None = None
    link: str | None = None

    @property
    def label(self) -> str:
        """The name to display."""
        return self.name or self.identifier


def read_license(card: bytes, files: Collection[str] = (), repository: str | None = None) -> License | None:
    """The license that a card declares; None where it declares none that a hub can use.

    Args:
        card: the content of README.md.
        files: names of the files that will be published beside the card, for links to them.
        repository: address of the repository that the card is from, for links to files that are not published.

    Raises:
        UnreadableCardError: there is front matter, but it cannot be read.
    """
    declared = _front_matter(card)
    identifier = declared.get("license")
    if isinstance(identifier, list) and len(identifier) == 1:
        identifier = identifier[0]
    if not isinstance(identifier, str):
        return None
    identifier, name = identifier.strip().lower(), _name(declared.get("license_name"))
    if identifier not in IDENTIFIERS:
        # A license that a hub does not know becomes `other`, with its identifier as the name.
        identifier, name = _OTHER, name or _name(identifier)
        if name is None:
            return None
    link = _link(declared.get("license_link"), files, repository)
    return License(identifier, name if identifier == _OTHER else None, link)


def _front_matter(card: bytes) -> dict[object, object]:
    match = _FRONT_MATTER.match(card)
    if match is None:
        return {}
    if len(match[1]) > _MAX_FRONT_MATTER_BYTES:
        raise UnreadableCardError(f"its front matter is larger than {_MAX_FRONT_MATTER_BYTES} bytes")
    try:
        declared = YAML(typ="base", pure=True).load(match[1].decode())
    except Exception as error:  # a third-party parser on untrusted input: whatever it raises, the card is unreadable
        raise UnreadableCardError(f"its front matter is not valid YAML ({type(error).__name__})") from error
    return declared if isinstance(declared, dict) else {}


def _name(declared: object) -> str | None:
    """An identifier such as `my-license-1.0`."""
    if not isinstance(declared, str):
        return None
    name = re.sub(r"[\s/]+", "-", declared.strip().lower())
    return name if _NAME.fullmatch(name) else None


def _link(declared: object, files: Collection[str], repository: str | None) -> str | None:
    if (
        not isinstance(declared, str)
        or not (declared.isascii() and declared.isprintable())
        or len(declared) > _MAX_LINK
    ):
        return None
    link = declared.strip()
    try:
        parts = urlsplit(link)
    except ValueError:
        return None
    if parts.scheme in ("http", "https"):
        return link if parts.hostname and not re.search(r"\s", link) and "@" not in parts.netloc else None
    if link in files and link in _LINKED_FILES:
        return link
    if repository and re.fullmatch(r"[\w.-]+(/[\w.-]+)*", link, re.ASCII) and ".." not in link:
        return f"{repository}/{link}"
    return None

"""Fields of a specification by the names that its author wrote.

The short forms of lists are expanded before a specification is sent, so the service names their entries by position:
`calibration.languages[0].language` is `calibration.languages.ge` in `languages: {ge: 0.5, uk: 0.5}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_ENTRY = re.compile(r"(?P<field>[a-z_.]+)\[(?P<position>\d+)\](\.[a-z_]+)?", re.ASCII)
_SHORT = ("calibration.languages", "limits.languages", "pruning.overrides", "shrink.vocabulary.weights")
"""The lists that have a short form."""


def as_written(field: str, spec: Mapping[str, Any]) -> str:
    """The path of a field, as the author of a specification wrote it."""
    match = _ENTRY.fullmatch(field)
    if match is None or match["field"] not in _SHORT:
        return field
    value: Any = spec
    for step in match["field"].split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    position = int(match["position"])
    if isinstance(value, Mapping) and position < len(value):
        return f"{match['field']}.{list(value)[position]}"
    is_list = isinstance(value, Sequence) and position < len(value)
    if is_list and isinstance(value[position], str):
        return f"{match['field']}[{position}]"
    return field

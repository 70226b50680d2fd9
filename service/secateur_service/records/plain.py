"""Plain data of another release as the dataclasses of this one.

What is stored outlives releases, and two of them share a database while one replaces the other. Newer ones only add
fields: this release leaves out those that it does not know, and gives those that an older one did not know their
defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def from_plain(kind: type[T], data: Mapping[str, Any]) -> T:
    """An instance of a dataclass, of the fields that it has."""
    return kind(**{field.name: data[field.name] for field in fields(kind) if field.name in data})  # type: ignore[arg-type]

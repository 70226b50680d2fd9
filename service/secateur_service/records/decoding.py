"""Decodes plain data from another release into this release's dataclasses.

Stored data outlives releases, and two releases share a database while one replaces the other. Newer releases only add
fields: this one ignores fields that it does not know, and uses defaults for fields that an older one did not write.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


def decode(kind: type[T], data: Mapping[str, Any]) -> T:
    """Build a dataclass, including nested ones, from the fields that it has; the inverse of `dataclasses.asdict`.

    Raises:
        pydantic.ValidationError: a field without a default is missing, or a field has the wrong type.
    """
    adapter: TypeAdapter[T] = _adapter(kind)  # type: ignore[arg-type] # a class is hashable
    return adapter.validate_python(data)


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)

"""Plain data of another release as the dataclasses of this one.

What is stored outlives releases, and two of them share a database while one replaces the other. Newer ones only add
fields: this release leaves out those that it does not know, and gives those that an older one did not know their
defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


def decode(kind: type[T], data: Mapping[str, Any]) -> T:
    """An instance of a dataclass, and of those in it, of the fields that it has; the inverse of `dataclasses.asdict`.

    Raises:
        pydantic.ValidationError: a field without a default is missing, or has another type.
    """
    adapter: TypeAdapter[T] = _adapter(kind)  # type: ignore[arg-type] # a class is hashable
    return adapter.validate_python(data)


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)

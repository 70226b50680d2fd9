"""What the author of a specification may have meant by a value that is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from secateur._suggestions import close_to

_PATTERN = re.compile(r"\s*([0-9]{1,5})\D{1,6}([0-9]{1,5})\s*", re.ASCII)
_LEAST_PERCENT = 2  # 1.5 is a slip and no percentage
_UPPER_BOUNDS = {"less_than": "lt", "less_than_equal": "le"}


def of(name: object, known: Iterable[str]) -> list[str]:
    """The known name that is nearest, if one is near."""
    near = close_to(name, known) if isinstance(name, str) else None
    return [near] if near else []


def of_pattern(pattern: str) -> list[str]:
    """N:M, for two numbers in another form or order, such as 2/4, 2-4 or 4:2."""
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        return []
    kept, group = sorted(map(int, match.groups()))
    return [f"{kept}:{group}"] if 0 < kept < group else []


def of_finding(finding: Any) -> list[str]:
    """What a validator suggests; or the share, for a percentage."""
    context, value = finding.get("ctx", {}), finding["input"]
    bound = context.get(_UPPER_BOUNDS.get(finding["type"], ""), 2)
    if bound <= 1 and isinstance(value, int | float) and _LEAST_PERCENT <= value < 100 * bound:
        return [f"{value / 100:g}"]
    return list(context.get("meant", ()))

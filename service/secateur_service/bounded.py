"""Reads untrusted JSON within limits that are checked before anything is built.

The cost of a document depends on its number of values, not of bytes: a megabyte of brackets becomes a hundred megabytes
of lists. So the values are counted first, at the speed of a byte search.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

# An unterminated string matches to the end of the document, so that no position is scanned twice.
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_SHOWN_CHARACTERS = 80


class UnreadableJsonError(ValueError):
    """The bytes are not JSON, or exceed a limit; the message says which, without naming the file."""


@dataclass(frozen=True)
class JsonLimits:
    """Limits on a JSON document.

    Attributes:
        size_bytes: size of the document.
        values: number of numbers, strings, lists and objects, at any depth.
        depth: how deeply lists and objects may be nested.
    """

    size_bytes: int
    values: int
    depth: int = 64


def parse_json(content: bytes, limits: JsonLimits) -> Any:
    """Parse a UTF-8 document. An object with a duplicate name is refused: parsers differ in which value they take.

    Raises:
        UnreadableJsonError: it is not JSON, or exceeds a limit.
    """
    check_json(content, limits)
    try:
        found = json.loads(content.decode(), object_pairs_hook=_object)
    except RecursionError as error:
        raise UnreadableJsonError(f"it is nested deeper than {limits.depth} levels") from error
    except ValueError as error:
        raise UnreadableJsonError(problem_of(error)) from error
    if _is_deeper(found, limits.depth):
        raise UnreadableJsonError(f"it is nested deeper than {limits.depth} levels")
    if b"\\u" in content and not _is_text(found):  # _is_text recurses
        raise UnreadableJsonError("it has half of a surrogate pair (\\ud800 to \\udfff alone), which is no character")
    return found


def problem_of(error: ValueError | RecursionError) -> str:
    """What is wrong with a document that `json.loads` refused, without Python's own advice."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError | UnreadableJsonError):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 (byte {error.start})"
    return "it has a number of thousands of digits"


def _is_text(value: Any) -> bool:
    """Whether all strings can be encoded; escapes can spell code points that are not characters."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def check_json(content: bytes, limits: JsonLimits) -> None:
    """Check whether a document may be parsed, without parsing it.

    Raises:
        UnreadableJsonError: it has too many bytes or values.
    """
    if len(content) > limits.size_bytes:
        raise UnreadableJsonError(f"{len(content)} bytes are too many; at most {limits.size_bytes} are read")
    if _values(content) > limits.values and _values(_TEXT.sub(b"", content)) > limits.values:
        raise UnreadableJsonError(f"it has more than {limits.values} values, which takes too much to read")


def _values(content: bytes) -> int:
    """An upper bound on the number of values: each but the first follows a comma or an opening bracket."""
    return 1 + content.count(b",") + content.count(b"[") + content.count(b"{")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise UnreadableJsonError(f"{name[:_SHOWN_CHARACTERS]!r} is named twice")
            seen.add(name)
    return found


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects are nested deeper than `depth`; goes level by level to avoid recursion."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(depth):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(level)

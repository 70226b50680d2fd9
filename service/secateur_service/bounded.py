"""JSON that others wrote, read within limits that hold before anything is built.

What a document costs is decided by how many values it has, not by how many bytes: a megabyte of brackets becomes a
hundred of lists. The values are counted first, at the speed of a search for bytes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

# Matches to the end also where a text never ends, so that no position is looked at twice.
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_SHOWN_CHARACTERS = 80


class UnreadableJsonError(ValueError):
    """The bytes are not JSON, or more of it than may be read; the message says which, without naming the file."""


@dataclass(frozen=True)
class JsonLimits:
    """How much JSON is read.

    Attributes:
        size_bytes: of the document.
        values: numbers, texts, lists and objects in it, however they are nested.
        depth: lists and objects inside each other.
    """

    size_bytes: int
    values: int
    depth: int = 64


def parse_json(content: bytes, limits: JsonLimits) -> Any:
    """Parse a document of UTF-8. An object that has a name twice is refused: readers differ in which they take.

    Raises:
        UnreadableJsonError: it is not JSON, or is beyond a limit.
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
    if b"\\u" in content and not _is_text(found):  # which recurses
        raise UnreadableJsonError("it has half of a surrogate pair (\\ud800 to \\udfff alone), which is no character")
    return found


def problem_of(error: ValueError | RecursionError) -> str:
    """What is wrong with a document that `json.loads` has refused, without Python's own advice."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError | UnreadableJsonError):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 (byte {error.start})"
    return "it has a number of thousands of digits"


def _is_text(value: Any) -> bool:
    """Whether all texts can be written; escapes can spell what is no character."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def check_json(content: bytes, limits: JsonLimits) -> None:
    """Look whether a document may be parsed, without parsing it.

    Raises:
        UnreadableJsonError: it has more bytes or values than are read.
    """
    if len(content) > limits.size_bytes:
        raise UnreadableJsonError(f"{len(content)} bytes are too many; at most {limits.size_bytes} are read")
    if _values(content) > limits.values and _values(_TEXT.sub(b"", content)) > limits.values:
        raise UnreadableJsonError(f"it has more than {limits.values} values, which takes too much to read")


def _values(content: bytes) -> int:
    """No fewer than there are: every value but the first follows a comma or an opening bracket."""
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
    """Whether lists and objects are nested deeper than that; level by level, so that nothing recurses."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(depth):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(level)

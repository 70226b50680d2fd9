"""What a validator found, in words for people: what was expected, with an example, and what may have been meant.

Takes pydantic's findings as plain data, and so needs no pydantic: settings, specifications and flags say the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from secateur._suggestions import did_you_mean, word_for

_MOST_SHOWN = 60
_WHOLE = "a whole number such as 2"
_NUMBER = "a number such as 0.5"
_TIME = "a time with its zone, such as 2026-11-01T08:30:00Z"
_EXPECTED = {
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "int_type": _WHOLE,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "finite_number": "a finite number such as 0.5",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
    "datetime_type": _TIME,
    "datetime_parsing": _TIME,
    "datetime_from_date_parsing": _TIME,
    "timezone_aware": _TIME,
}
_PERCENTAGE = re.compile(r"\s*([0-9]{1,6}(?:[.,][0-9]{1,6})?)\s*%\s*", re.ASCII)
_COMMA = re.compile(r"\s*([0-9]{1,9}),([0-9]{1,9})\s*", re.ASCII)
_CHOICES = re.compile(r"is not one of (.+)")
_QUOTED = re.compile(r"'([^']*)'")
_THE_INPUT = re.compile(r"^(?:Input|String|List|Tuple|Set|Dictionary|Value) should ")


def worded(finding: Mapping[str, Any], *, shown: bool = True, ratio: bool = False) -> str:
    """One finding of pydantic, without its place.

    Args:
        finding: What `ValidationError.errors()` lists; `input` may be left out.
        shown: Whether the value may be shown; a suggestion, which is never the value, is made in any case.
        ratio: Whether the number is a ratio to what was before: 5 % more are 1.05.
    """
    kind, value = str(finding["type"]), finding.get("input")
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "no such field"
    message = str(finding["msg"]).removeprefix("Value error, ").removesuffix(".")
    choices = _choices(finding, message)
    if choices:
        expected = f"expected {'one of ' * (len(choices) > 1)}{', '.join(choices)}"
    elif kind in _EXPECTED:
        expected = f"expected {_EXPECTED[kind]}"
    else:
        expected = _THE_INPUT.sub("has to ", message)
        if expected == message:
            return message
    if shown and kind == "finite_number" and value in (math.inf, -math.inf):
        expected += ", not one that is infinite or too large"  # as 1e400, of which no more is known
    elif shown and "input" in finding:
        expected += f", not {_shortened(value)}"
    meant = word_for(value, choices) if choices else None
    hint = did_you_mean([meant]) if meant else number_meant(value, ratio=ratio) if kind == "float_parsing" else ""
    return f"{expected}; {hint}" if hint else expected


def number_meant(value: object, *, ratio: bool = False) -> str:
    """How to write a text such as `5%` or `0,5` as a number; empty for others."""
    if not isinstance(value, str):
        return ""
    if match := _PERCENTAGE.fullmatch(value):
        percent = float(match[1].replace(",", "."))
        return f"write {percent / 100 + ratio:g} for {percent:g} %"
    if match := _COMMA.fullmatch(value):
        return did_you_mean([f"{match[1]}.{match[2]}"])
    return ""


def _choices(finding: Mapping[str, Any], message: str) -> Sequence[str]:
    """The values of which one is expected; empty if there is no such list."""
    if finding["type"] in ("literal_error", "enum"):
        return _QUOTED.findall(str(finding["ctx"]["expected"])) or [str(finding["ctx"]["expected"])]
    listed = _CHOICES.search(message) if finding["type"] == "value_error" else None
    return _QUOTED.findall(listed[1]) if listed else []


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."

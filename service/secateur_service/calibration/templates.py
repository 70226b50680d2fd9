"""Chat templates whose text depends on the conversation alone: not on clock, time zone, locale or chance.

A template is a program of the model's, and transformers gives it the clock (`strftime_now`); Jinja gives it random
numbers and the addresses of objects. Two runs of one specification would differ. So the clock stands still at
`TEMPLATE_DATE`, with the names that English has; of several things at random the first is taken; and a text with an
address in it is refused. This is the only place that knows how transformers compiles templates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError, pass_context
from jinja2.runtime import Context
from transformers.utils import chat_template_utils

TEMPLATE_DATE = "2025-01-01T00:00:00"
"""When every template is rendered."""

# What strftime gives at that time in the locale C, of a time without a zone.
_DIRECTIVES = {
    "a": "Wed",
    "A": "Wednesday",
    "b": "Jan",
    "B": "January",
    "h": "Jan",
    "p": "AM",
    "P": "am",
    "z": "",
    "Z": "",
    "Y": "2025",
    "G": "2025",
    "C": "20",
    "y": "25",
    "g": "25",
    "m": "01",
    "d": "01",
    "e": " 1",
    "j": "001",
    "H": "00",
    "k": " 0",
    "I": "12",
    "l": "12",
    "M": "00",
    "S": "00",
    "f": "000000",
    "s": "1735689600",
    "u": "3",
    "w": "3",
    "U": "00",
    "V": "01",
    "W": "00",
    "n": "\n",
    "t": "\t",
    "%": "%",
    "c": "Wed Jan  1 00:00:00 2025",
    "D": "01/01/25",
    "x": "01/01/25",
    "F": "2025-01-01",
    "r": "12:00:00 AM",
    "R": "00:00",
    "T": "00:00:00",
    "X": "00:00:00",
}
_DIRECTIVE = re.compile(r"%([-_0^#]?)[EO]?([A-Za-z%])")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{4,}")


def strftime_now(template: str) -> str:
    """What `strftime` gives at `TEMPLATE_DATE`; directives that there are none of stay as they are."""
    return _DIRECTIVE.sub(_expand, str(template))


def render_conversation(tokenizer: Any, messages: Sequence[dict[str, Any]]) -> str:
    """Put a conversation into a tokenizer's chat template.

    Args:
        tokenizer: of transformers, with a chat template.
        messages: with `role` and `content`.

    Raises:
        TemplateError: the template is broken, does not take the conversation, or prints the address of an object.
    """
    compiled = chat_template_utils._compile_jinja_template(tokenizer.get_chat_template())
    compiled.environment.globals["strftime_now"] = strftime_now
    compiled.environment.globals.pop("lipsum", None)
    compiled.environment.filters["random"] = _first
    text = str(tokenizer.apply_chat_template(list(messages), tokenize=False))
    if len(_ADDRESS.findall(text)) > len(_ADDRESS.findall(repr(messages))):
        raise TemplateError("it prints the address of an object, which differs in every run")
    return text


@pass_context
def _first(context: Context, values: Any) -> Any:  # noqa: ARG001 - the signature of Jinja's own filter
    return next(iter(values), "")


def _expand(match: re.Match[str]) -> str:
    flag, directive = match.groups()
    value = _DIRECTIVES.get(directive)
    if value is None:
        return match[0]
    digits = value.lstrip("0 ") or "0"
    match flag:
        case "-":
            return digits if value.strip().isdigit() else value
        case "_":
            return digits.rjust(len(value)) if value.strip().isdigit() else value
        case "0":
            return digits.rjust(len(value), "0") if value.strip().isdigit() else value
        case "^":
            return value if directive == "P" else value.upper()
        case "#":
            return value.swapcase() if directive in "pZ" else value.upper()
    return value

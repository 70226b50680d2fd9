"""Renders chat templates deterministically: independent of clock, time zone, locale and random numbers.

A template is a program that comes with the model. transformers gives it the clock (`strftime_now`), and Jinja gives it
random numbers and the addresses of objects, so two runs of one specification would differ. Therefore the clock is fixed
at `TEMPLATE_DATE`, with English names; a random choice always takes the first item; and a text that contains an address
is refused. Only this file depends on how transformers compiles templates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.runtime import Context

TEMPLATE_DATE = "2025-01-01T00:00:00"
"""The date and time at which every template is rendered."""

# The output of strftime at that time in the C locale, for a time without a zone.
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
    """The output of `strftime` at `TEMPLATE_DATE`; unknown directives are left unchanged."""
    return _DIRECTIVE.sub(_expand, str(template))


def render_conversation(tokenizer: Any, messages: Sequence[dict[str, Any]], **options: bool) -> str:
    """Render a conversation with a tokenizer's chat template.

    Args:
        tokenizer: a tokenizer of transformers, with a chat template.
        messages: with `role` and `content`.
        options: how the conversation ends, as transformers' `apply_chat_template` takes it.

    Raises:
        TemplateError: the template is broken, does not accept the conversation, or prints the address of an object.
    """
    compiled = _compiled(tokenizer.get_chat_template())
    compiled.environment.globals["strftime_now"] = strftime_now
    compiled.environment.globals.pop("lipsum", None)
    compiled.environment.filters["random"] = _first
    text = str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
    if len(_ADDRESS.findall(text)) > len(_ADDRESS.findall(repr(messages))):
        raise TemplateError("it prints the address of an object, which differs in every run")
    return text


def literals_of(template: str) -> list[str]:
    """All text that a chat template has in itself, whichever of it a conversation brings out; nothing is run.

    Raises:
        TemplateError: it is no template.
    """
    environment = _compiled(template).environment
    tree = environment.parse(template)
    found = [node.data for node in tree.find_all(nodes.TemplateData)]
    return found + [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]


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


def _compiled(template: str) -> Any:
    from transformers.utils import chat_template_utils  # only where a template is used: servers import this file

    return chat_template_utils._compile_jinja_template(template)

"""Refusals name what the user typed: a flag where the value came from one, and else the path in the specification."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from secateur._options import OPTIONS
from secateur.cli._job_options import SPELLED_OTHERWISE

_ARGUMENTS = {
    "max_growth": "--max-growth",
    "max_task_loss": "--max-task-loss",
    "languages": "--language",
    "target_languages": "--language",
    "tasks": "--task",
    "labels": "--label",
    "states": "--state",
    "request_id": "--request-id",
    "after_sequence": "--after",
    "name": "--name",
    "names": "JOB",
    "report": "JOB",
}
"""The flags of commands, or their arguments, by the SDK's and the service's names of what they say."""
_HEAD = re.compile(r"([a-z_]+)(?:\[([^\]]*)\].*|\..*)?", re.ASCII)


def argument_as_typed(field: str, values: Mapping[str, Any]) -> str:
    """The flag of an argument of a call; `values` are those of the command, by parameter. Others stay as they are."""
    head = _HEAD.fullmatch(field)
    flag = _ARGUMENTS.get(head[1]) if head else None
    if head is None or flag is None:
        return field
    parameters = ("job", "jobs") if flag == "JOB" else (flag.removeprefix("--").replace("-", "_"),)
    parameter = next((each for each in parameters if each in values), None)
    if parameter is None:
        return field
    typed, place = values[parameter], head[2] or ""
    if flag == "--label" and not typed:
        return field  # of the file
    if place.isdigit() and isinstance(typed, Sequence) and int(place) < len(typed):
        return f"{flag} {shown(typed[int(place)])}"
    if parameter == "job":
        return f"{flag} {shown(typed)}"
    return f"{flag} {place}".rstrip()


def option_as_typed(options: Mapping[str, Any], typed: Mapping[str, Sequence[str]]) -> Callable[[str], str]:
    """Names fields of a specification by the flags that set them.

    Args:
        options: The options of one value, None where the flag is not given.
        typed: What stood behind flags of more than one value, by option; empty where none is given.
    """
    single = {".".join(OPTIONS[name].path): _flag(name) for name, value in options.items() if value is not None}
    several = {".".join(OPTIONS[name].path): (_flag(name), texts) for name, texts in typed.items() if texts}

    def named(field: str) -> str:
        if field in single:
            return single[field]
        for path, (flag, texts) in several.items():
            if field == path:
                return flag
            if match := re.fullmatch(rf"{re.escape(path)}(?:\[(\d+)\](?:\..*)?|\.(.+))", field, re.DOTALL):
                return f"{flag} {shown(_at(texts, match))}"
        return field

    return named


def shown(text: str) -> str:
    """A text as it was typed; where that is nothing, or blanks, in the quotes that it needs."""
    return text if text.strip() else f"'{text}'"


def _at(texts: Sequence[str], match: re.Match[str]) -> str:
    """The text of a list's entry, or the last that begins with the key of a mapping's."""
    if match[1] is not None:
        return texts[int(match[1])] if int(match[1]) < len(texts) else ""
    return next((text for text in reversed(texts) if text.rpartition("=")[0] == match[2]), match[2])


def _flag(name: str) -> str:
    return "--" + SPELLED_OTHERWISE.get(name, name).replace("_", "-")

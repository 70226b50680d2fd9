"""Turns pydantic's findings about a part of a specification into violations with the field's path and the remedy.

A field's description says what it accepts; a finding of type `rules` carries broken rules between fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from secateur._findings import worded
from secateur._suggestions import did_you_mean
from secateur_service.errors import FieldViolation
from secateur_service.spec import suggestions


def independent(findings: Sequence[Any]) -> Iterator[Any]:
    """Drop findings that a list is too short if some of its items are invalid: pydantic counts only valid ones."""
    for finding in findings:
        path = finding["loc"]
        if finding["type"] == "too_short" and any(
            other["loc"][: len(path)] == path != other["loc"] for other in findings
        ):
            continue
        yield finding


def violations_of(part: str, kind: type[BaseModel], finding: Any) -> list[FieldViolation]:
    """Turn one of pydantic's findings into field paths, what is wrong with them and what they accept."""
    path, remedy, meant = part, "", suggestions.of_finding(finding)
    for step in finding["loc"]:
        if isinstance(step, int):
            path += f"[{step}]"
            continue
        path += f".{step}"
        field = kind.model_fields.get(step)
        if field is None:
            remedy, meant = f"known are {', '.join(kind.model_fields)}", suggestions.of(step, kind.model_fields)
            continue
        remedy = f"expected {field.description}"
        if finding["type"] == "literal_error":
            meant = suggestions.of(finding["input"], choices_in(field.annotation))
        kind = model_in(field.annotation) or kind
    if finding["type"] == "rules":
        broken = finding["ctx"]["broken"]
        return [FieldViolation(f"{path}.{rule.field}", f"{rule.problem}; {rule.remedy}") for rule in broken]
    if finding["type"] == "too_long":
        problem = f"there are {finding['ctx']['actual_length']}; at most {finding['ctx']['max_length']} are read"
    elif finding["type"] == "missing":
        problem = f"{finding['loc'][-1]} is missing"
    elif finding["type"] == "value":
        problem = f"{_shortened(finding['input'])} {finding['msg']}"
    elif finding["type"] in ("literal_error", "enum"):
        problem = f"{_shortened(finding['input'])} is none of its values"
    else:
        problem = worded(finding)
    remedy = did_you_mean(meant) or remedy
    return [FieldViolation(path, f"{problem}; {remedy}" if remedy else problem)]


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The part that a field holds, or of which it holds several or none."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def choices_in(annotation: Any) -> tuple[str, ...]:
    """The texts that a field takes, if it takes only some."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return inner
    return tuple(choice for part in inner for choice in choices_in(part))


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

"""Another specification for the retry of a job: the job's own, with some fields set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur._errors import FieldViolation, InvalidSpecError
from secateur._job import Job
from secateur._spec import described

_LOOKED_UP = (("model",), ("calibration", "corpus"), ("evaluation", "corpus"))


def changed_spec(job: Job, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The specification of a job with fields set.

    Model and corpora that stay are those that the job had, down to the commit of a repository, or its finished blocks
    would not fit.

    Args:
        job: The job.
        changes: Values by the paths of fields, such as `pruning.sparsity`; None leaves a field out.

    Raises:
        InvalidSpecError: a path cannot be one; lists every fault.
    """
    spec = dict(job.spec)
    paths = [tuple(field.split(".")) for field in changes]
    for looked_up in _LOOKED_UP:
        stays = not any(_overlap(looked_up, path) for path in paths)
        if stays and (found := _value(job.resolved_spec, looked_up)) is not None:
            spec = _with(spec, looked_up, found)
    faults = []
    for (field, value), path in zip(changes.items(), paths, strict=True):
        fault = _fault(spec, path)
        if fault:
            faults.append(FieldViolation(field, fault))
        else:
            spec = _with(spec, path, value)
    if faults:
        raise InvalidSpecError(faults)
    return spec


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether one field is the other, or lies within it."""
    return all(first == second for first, second in zip(one, other, strict=False))


def _fault(spec: Mapping[str, Any], path: tuple[str, ...]) -> str:
    if not all(path):
        return "is no path of a field; write one such as pruning.sparsity"
    part: Any = spec
    for depth, key in enumerate(path):
        if part is None:
            return ""
        if not isinstance(part, Mapping):
            above = ".".join(path[:depth])
            return f"lies within {above}, which is {described(part)}; set all of {above}"
        part = part.get(key)
    return ""


def _value(part: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        part = part.get(key) if isinstance(part, Mapping) else None
    return part


def _with(part: Mapping[str, Any] | None, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of a part with one field set, or left out."""
    first, rest = path[0], path[1:]
    copy = dict(part or {})
    if rest:
        copy[first] = _with(copy.get(first), rest, value)
    elif value is None:
        copy.pop(first, None)
    else:
        copy[first] = value
    return copy

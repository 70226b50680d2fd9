"""The grid of a sweep: one specification for every combination of the values that a file lists.

Pure. A job of a sweep is known by the sweep's name and its specification alone: what was submitted once is found again,
whatever else the file lists by then, and in whichever order.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from secateur._errors import FieldViolation, InvalidRequestError, InvalidSpecError
from secateur._job import Job
from secateur._language import canonical_tag
from secateur._spec import SWEEP, described, spec_mapping, spec_message
from secateur._terminal import clean
from secateur.v1 import prune_job_pb2 as pb

MAX_POINTS = 50
"""As many as one comparison holds."""

SWEEP_LABEL = "sweep"
POINT_LABEL = "point"
_MAX_LABEL_CHARACTERS = 63
_NAMESPACE = uuid.UUID("3408d758-6f3a-46f2-9e73-24de1b9995de")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_BARE = re.compile(r"[A-Za-z0-9_*][^\s\"]*")
_BARE_INSIDE = re.compile(r"[A-Za-z_*][\w.*/-]*")
_LISTED = 3
_Path: TypeAlias = tuple[str, ...]
_Axes: TypeAlias = dict[_Path, Sequence[Any]]


@dataclass(frozen=True)
class Point:
    """One combination of the values.

    Attributes:
        name: The values in words, such as `method=wanda sparsity=0.5`; no other point of the grid has it.
        values: The value of every field that varies, by the field's path.
        spec: The specification.
    """

    name: str
    values: Mapping[str, Any]
    spec: Mapping[str, Any]

    @property
    def content(self) -> str:
        """The specification as one text: equal texts ask for the same."""
        return _content(spec_message(self.spec))


@dataclass(frozen=True)
class Grid:
    """All points of a sweep.

    Attributes:
        name: The sweep's name.
        points: The points; the field that is listed last varies fastest.
    """

    name: str
    points: tuple[Point, ...]

    @property
    def evaluated(self) -> list[str]:
        """The languages that points evaluate, each once, in canonical form."""
        found = []
        for point in self.points:
            message = spec_message(point.spec)
            mix = [entry.language for entry in message.calibration.languages]
            found += [canonical_tag(tag) or tag for tag in message.evaluation.languages or mix]
        return list(dict.fromkeys(found))

    @property
    def label(self) -> dict[str, str]:
        """The label that all its jobs have."""
        return {SWEEP_LABEL: self.name}

    def labels(self, point: Point) -> dict[str, str]:
        """The labels of a point's job."""
        shown = clean(point.name)
        if len(shown) > _MAX_LABEL_CHARACTERS:
            shown = f"{shown[: _MAX_LABEL_CHARACTERS - 1]}…"
        return {**self.label, POINT_LABEL: shown}

    def request_id(self, point: Point) -> str:
        """The request id of a point's job."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.name}\n{point.content}"))


def retry_id(job: Job) -> str:
    """The request id of the retry of a job, by which it is retried only once."""
    return str(uuid.uuid5(_NAMESPACE, f"retry of {job.uid}"))


def content_of(job: Job) -> str:
    """The specification that a job was submitted with, as `Point.content` has it."""
    return _content(spec_message(job.spec))


def grid_of(content: Mapping[str, Any], name: str | None = None) -> Grid:
    """The grid that a file describes.

    Args:
        content: A specification with a section `sweep`, which maps paths of fields to lists of values.
        name: The sweep's name; by default it is derived from the specifications.

    Raises:
        InvalidRequestError: the name cannot be one.
        InvalidSpecError: the section is not clear, or a point's specification has the wrong shape; lists every fault.
    """
    if name is not None and not _NAME.fullmatch(name):
        fault = f"{clean(name)!r} is no name; use up to 63 letters, digits, dots, dashes and underscores"
        raise InvalidRequestError([FieldViolation("name", fault)])
    base = {field: value for field, value in content.items() if field != SWEEP}
    axes = _axes(content.get(SWEEP), base)
    points = tuple(_points(base, axes))
    shapeless = {}
    equal = []
    contents: dict[str, Point] = {}
    for point in points:
        try:
            known = contents.setdefault(point.content, point)
        except InvalidSpecError as error:
            shapeless[point.name] = error.violations
            continue
        if known is not point:
            fault = f"{known.name} and {point.name} have the same specification; list each value once"
            equal.append(FieldViolation(SWEEP, fault))
    if shapeless or equal:
        raise InvalidSpecError(at_points(shapeless, len(points)) + equal)
    digest = hashlib.sha256("\n".join(sorted(contents)).encode()).hexdigest()
    return Grid(name or digest[:12], points)


def at_points(faults: Mapping[str, Sequence[FieldViolation]], total: int) -> list[FieldViolation]:
    """What is wrong at points, by their names: each fault once, with where it is found."""
    places: dict[FieldViolation, list[str]] = {}
    for name, violations in faults.items():
        for violation in violations:
            places.setdefault(violation, []).append(name)
    return [
        FieldViolation(fault.field, f"{fault.description} ({_where(names, total)})") for fault, names in places.items()
    ]


def _where(names: Sequence[str], total: int) -> str:
    if len(names) == total > 1:
        return f"at all {total} points"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"at {'; '.join(names[:_LISTED])}{more}"


def _axes(section: Any, base: Mapping[str, Any]) -> _Axes:
    """What varies.

    Raises:
        InvalidSpecError: the section is not clear.
    """
    example = "{pruning.method: [wanda, sparsegpt], pruning.sparsity: [0.5, 0.6]}"
    if not isinstance(section, Mapping) or not section:
        fault = f"expected a mapping from fields to lists of values, such as {example}, not {described(section)}"
        raise InvalidSpecError([FieldViolation(SWEEP, fault)])
    axes: _Axes = {}
    faults = []
    for field, values in section.items():
        path = tuple(str(field).split("."))
        fault = _axis_fault(path, values, base)
        if fault:
            faults.append(FieldViolation(f"{SWEEP}.{field}", fault))
        else:
            axes[path] = values
    for inner, outer in itertools.permutations(axes, 2):
        if inner[: len(outer)] == outer:
            fault = f"lies within {'.'.join(outer)}, which is listed too; write it into the values there"
            faults.append(FieldViolation(f"{SWEEP}.{'.'.join(inner)}", fault))
    sizes = [len(values) for values in axes.values()]
    if not faults and math.prod(sizes) > MAX_POINTS:
        product = " × ".join(map(str, sizes))
        shown = f"{product} = {math.prod(sizes)}" if len(sizes) > 1 else product
        fault = f"{shown} points are too many; at most {MAX_POINTS}, which is what a comparison holds"
        faults.append(FieldViolation(SWEEP, fault))
    if faults:
        raise InvalidSpecError(faults)
    return axes


def _axis_fault(path: _Path, values: Any, base: Mapping[str, Any]) -> str:
    """What is wrong with one entry of the section; empty if nothing is."""
    if not all(path):
        return "is no path of a field; write one such as pruning.method"
    if isinstance(values, Mapping):
        return (
            f"expected a list of values, not {described(values)}; write {path[-1]}.FIELD: [...] for a field within it"
        )
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        return f"expected a list of values, not {described(values)}; a single value goes into a list as well"
    if not values:
        return "lists no value; give at least one, or leave the field out"
    part: Any = base
    for depth, key in enumerate(path):
        if part is None:
            return ""
        if not isinstance(part, Mapping):
            above = ".".join(path[:depth])
            return f"lies within {above}, which is {described(part)}; make it a mapping, or list values of {above}"
        if key not in part:
            return ""
        part = part[key]
    if part is None:
        return ""
    return f"the specification has it too, as {described(part)}; leave it out there, or here"


def _points(base: Mapping[str, Any], axes: _Axes) -> Iterator[Point]:
    lasts = [path[-1] for path in axes]
    titles = {path: path[-1] if lasts.count(path[-1]) == 1 else ".".join(path) for path in axes}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        spec: Mapping[str, Any] = base
        for path, value in chosen.items():
            spec = _with(spec, path, value)
        name = " ".join(f"{titles[path]}={_text(value)}" for path, value in chosen.items())
        yield Point(name, {".".join(path): value for path, value in chosen.items()}, spec)


def _with(part: Mapping[str, Any] | None, path: _Path, value: Any) -> dict[str, Any]:
    """A copy of a part with one field set."""
    part = part or {}
    first, rest = path[0], path[1:]
    return {**part, first: _with(part.get(first), rest, value) if rest else value}


def _text(value: Any, bare: re.Pattern[str] = _BARE) -> str:
    """A value on one line; other values have other texts."""
    if isinstance(value, Mapping):
        return (
            "{"
            + ",".join(f"{_text(key, _BARE_INSIDE)}:{_text(item, _BARE_INSIDE)}" for key, item in value.items())
            + "}"
        )
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"[{','.join(_text(item, _BARE_INSIDE) for item in value)}]"
    if isinstance(value, str) and bare.fullmatch(value) and not _is_json(value):
        return value
    return json.dumps(value, default=str, ensure_ascii=False)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _content(message: pb.PruneSpec) -> str:
    return json.dumps(spec_mapping(message))

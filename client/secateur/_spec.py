"""Converts the plain-data form of a specification (YAML, JSON, a mapping) to a message and back.

Only the *shape* is checked here: unknown names, wrong types, numbers out of range. The checks use the protocol's
descriptors, so that a new field needs no code. The service alone validates the values. Every fault is reported, each
with its path. No defaults are filled in, and not-a-number and infinity pass through.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from secateur import _yaml
from secateur._errors import FieldViolation, InvalidSpecError
from secateur._suggestions import close_to, did_you_mean
from secateur.v1 import prune_job_pb2 as pb

SpecSource: TypeAlias = "Mapping[str, Any] | str | os.PathLike[str]"
"""A specification as a mapping, or the path of a YAML file that holds one."""

MAX_FILE_BYTES = 2**18
SWEEP = "sweep"
"""The section that makes a file the specification of a sweep."""

_LIMITS = _yaml.YamlLimits(MAX_FILE_BYTES)
_LANGUAGE_WEIGHT = pb.LanguageWeight.DESCRIPTOR
_LAYER_OVERRIDE = pb.LayerOverride.DESCRIPTOR
_LANGUAGE_LIMIT = pb.LanguageLimit.DESCRIPTOR
_INTEGER_BITS = {FieldDescriptor.TYPE_INT32: 32, FieldDescriptor.TYPE_INT64: 64}
_NUMBER = re.compile(r"\s*([0-9]{1,9}(?:[.,][0-9]{1,9})?)\s*(%?)\s*", re.ASCII)
_PATTERN = re.compile(r"[0-9]{1,3}:[0-9]{1,3}", re.ASCII)
_UNSPACED = re.compile(r"([^\s:]+):([^\s:].*)")
_Report = Callable[[str, str], None]


def load_spec(path: str | os.PathLike[str]) -> pb.PruneSpec:
    """Read a specification from a YAML file.

    Raises:
        InvalidSpecError: the file has the wrong shape; the error lists every fault.
    """
    return spec_message(read_spec(path))


def spec_message(data: Mapping[str, Any]) -> pb.PruneSpec:
    """A specification from plain data.

    Raises:
        InvalidSpecError: it has the wrong shape; the error lists every fault.
    """
    violations: list[FieldViolation] = []
    message = pb.PruneSpec()
    _fill(message, data, "", lambda path, fault: violations.append(FieldViolation(path, fault)))
    if violations:
        raise InvalidSpecError(violations)
    return message


def spec_mapping(message: pb.PruneSpec) -> dict[str, Any]:
    """The inverse of `spec_message`: plain data with the fields that are set."""
    return _plain(message)


def layer_override(layers: Any, choice: Any) -> dict[str, Any]:
    """An override from its short form: `0.6` is a sparsity, `2:4` a pattern, and `dense` keeps the layers dense."""
    if choice == "dense":
        return {"layers": layers, "dense": True}
    return {"layers": layers, "pattern" if isinstance(choice, str) else "sparsity": choice}


def read_spec(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The plain data in a YAML 1.2 file, in which the language `no` is a string and `2:4` is not a time.

    Raises:
        InvalidSpecError: the file cannot be read, is not YAML, or has no mapping at its top level.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _not_a_spec(f"cannot read the specification {path}: {error.strerror}") from error
    return parse_yaml(content, str(path))


def parse_yaml(content: bytes, source: str) -> dict[str, Any]:
    """The plain data in a YAML text; `source` names it in errors.

    Raises:
        InvalidSpecError: it is not YAML, or has no mapping at its top level.
    """
    if len(content) > MAX_FILE_BYTES:
        raise _not_a_spec(f"{source} is larger than {MAX_FILE_BYTES} bytes, so it is no specification")
    try:
        data = _yaml.parse_yaml(content, _LIMITS)
    except _yaml.UnreadableYamlError as error:
        raise _not_a_spec(f"{source}{error.place} is not YAML of a specification: {error}") from error
    if not isinstance(data, dict):
        known = ", ".join(field.name for field in pb.PruneSpec.DESCRIPTOR.fields)
        holds = "is empty" if data is None else f"holds {described(data)} and not a specification"
        raise _not_a_spec(f"{source} {holds}; expected a mapping with {known}")
    return data


def _not_a_spec(problem: str) -> InvalidSpecError:
    return InvalidSpecError([FieldViolation("", problem)])


def _fill(message: Message, data: Mapping[Any, Any], path: str, report: _Report) -> None:
    fields = message.DESCRIPTOR.fields_by_name
    before: tuple[Any, Any] = (None, None)
    for key, value in data.items():
        (field, number), before = before, (key, value)
        if _is_fraction(key, value) and isinstance(number, int) and not isinstance(number, bool):
            fault = f"a comma begins another field; write numbers with a decimal point, such as {number}.5"
            report(_joined(path, field), fault)
        elif key not in fields:
            report(_joined(path, key), _unknown(key, message.DESCRIPTOR))
        elif value is not None:
            _set(message, fields[key], value, _joined(path, key), report)


def _is_fraction(key: object, value: object) -> bool:
    """Whether this is what YAML makes of the digits behind a decimal comma: a key without a value."""
    return isinstance(key, int) and not isinstance(key, bool) and key >= 0 and value is None


def _set(message: Message, field: FieldDescriptor, value: Any, path: str, report: _Report) -> None:
    """Set one field, or report what is wrong with its value."""
    if field.message_type is None and not _is_repeated(field):
        fault = _scalar_fault(field, value)
        if fault:
            report(path, fault)
        else:
            setattr(message, field.name, value)
    elif not _is_repeated(field):
        if isinstance(value, Mapping):
            part = getattr(message, field.name)
            part.SetInParent()
            _fill(part, value, path, report)
        else:
            report(path, f"expected a mapping, not {described(value)}{_mapping_meant(field.message_type, value)}")
    elif field.message_type is None:
        items = _items(value, "a list", path, report)
        for position, item in enumerate(items):
            fault = _scalar_fault(field, item)
            if fault:
                report(f"{path}[{position}]", fault)
            else:
                getattr(message, field.name).append(item)
    else:
        for item_path, item in _entries(field.message_type, value, path, report):
            _fill(getattr(message, field.name).add(), item, item_path, report)


def _entries(kind: Descriptor, value: Any, path: str, report: _Report) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The entries of a list of messages; some lists have a short form.

    A mix may be written `{de: 0.5, en: 0.5}` or `[de, en]`, limits `{de: 0.01}`, and overrides
    `{"*.down_proj.weight": 0.4}`.
    """
    mix = kind is _LANGUAGE_WEIGHT
    if mix and isinstance(value, Mapping):
        for language, weight in value.items():
            if weight is None and (hint := space_missing(language)):
                report(f"{path}.{language}", f"no weight; {hint}")
            else:
                yield f"{path}.{language}", {"language": language, "weight": weight}
        return
    if kind is _LANGUAGE_LIMIT and isinstance(value, Mapping):
        for language, growth in value.items():
            if growth is None and (hint := space_missing(language)):
                report(f"{path}.{language}", f"no limit; {hint}")
            else:
                yield f"{path}.{language}", {"language": language, "growth": growth}
        return
    if kind is _LAYER_OVERRIDE and isinstance(value, Mapping):
        for layers, choice in value.items():
            if choice is None and (hint := space_missing(layers)):
                report(f"{path}.{layers}", f"no target; {hint}")
            else:
                yield f"{path}.{layers}", layer_override(layers, choice)
        return
    expected = {
        _LANGUAGE_WEIGHT: "a mapping such as {de: 0.7, en: 0.3} or a list of languages",
        _LANGUAGE_LIMIT: "a mapping such as {de: 0.01}",
        _LAYER_OVERRIDE: 'a mapping such as {"*.down_proj.weight": 0.4} or a list of overrides',
    }
    for position, item in enumerate(_items(value, expected.get(kind, "a list"), path, report)):
        if isinstance(item, Mapping):
            yield f"{path}[{position}]", item
        elif mix and isinstance(item, str):
            yield f"{path}[{position}]", {"language": item}
        else:
            report(f"{path}[{position}]", f"expected {'a language' if mix else 'a mapping'}, not {described(item)}")


def _items(value: Any, expected: str, path: str, report: _Report) -> Sequence[Any]:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return value
    report(path, f"expected {expected}, not {described(value)}")
    return ()


def _scalar_fault(field: FieldDescriptor, value: Any) -> str:
    """What is wrong with a field's value; empty if nothing is."""
    if field.type == FieldDescriptor.TYPE_STRING:
        if not isinstance(value, str):
            return f"expected a text, not {described(value)}; put it in quotes if it is meant literally"
        if not value and not field.has_presence and not _is_repeated(field):  # the service would not see it
            return "is empty; give it a value, or leave it out"
        return "" if _is_unicode(value) else "holds characters that are no Unicode text"
    if field.type == FieldDescriptor.TYPE_BOOL:
        return "" if isinstance(value, bool) else f"expected true or false, not {described(value)}"
    if field.type in _INTEGER_BITS:
        if not isinstance(value, int) or isinstance(value, bool):
            return f"expected a whole number, not {described(value)}"
        limit = 2 ** (_INTEGER_BITS[field.type] - 1)
        return "" if -limit <= value < limit else f"{value} is too large; expected less than {limit}"
    assert field.type == FieldDescriptor.TYPE_DOUBLE, field.full_name
    if not isinstance(value, int | float) or isinstance(value, bool):
        return f"expected a number, not {described(value)}{_number_meant(value)}"
    return "" if isinstance(value, float) or abs(value) < 2**1023 else "too large for a number"


def _number_meant(value: object) -> str:
    """The number in a text such as `50 %` or `0,5`, as a question; empty for others."""
    match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return ""
    number = float(match[1].replace(",", "."))
    return f"; {did_you_mean([f'{number / 100 if match[2] else number:g}'])}"


def _mapping_meant(kind: Descriptor, value: object) -> str:
    """The mapping in which a bare value has an obvious place, as a question; empty for others."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if kind is pb.ModelSpec.DESCRIPTOR and isinstance(value, str):
        return f"; {did_you_mean([f'{{uri: {value}}}'])}"
    if kind is pb.PruningSpec.DESCRIPTOR:
        if not isinstance(value, str):
            return f"; {did_you_mean([f'{{sparsity: {value}}}'])}"
        if _PATTERN.fullmatch(value):
            return f"; {did_you_mean([f'{{pattern: {value}}}'])}"
    return ""


def space_missing(key: object) -> str:
    """What was meant by a key such as `de:0.5`, which YAML takes for one text; empty for others."""
    match = _UNSPACED.fullmatch(key) if isinstance(key, str) else None
    return f"a colon needs a space behind it; {did_you_mean([f'{match[1]}: {match[2]}'])}" if match else ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unknown(key: object, kind: Descriptor) -> str:
    if key == SWEEP and kind is pb.PruneSpec.DESCRIPTOR:
        return "is a section of sweeps; submit the file with `secateur sweep`, or take the section out"
    if key == "labels" and kind is pb.PruneSpec.DESCRIPTOR:
        return "are no part of a specification; label the job with --label KEY=VALUE, in the SDK with labels={...}"
    if hint := space_missing(key):
        return f"no such field; {hint}"
    known = [field.name for field in kind.fields]
    near = close_to(str(key), known) or _elsewhere(str(key), pb.PruneSpec.DESCRIPTOR)
    hint = f", {did_you_mean([near])}" if near else ";"
    return f"no such field{hint} known are {', '.join(known)}"


def _elsewhere(name: str, kind: Descriptor, path: str = "") -> str | None:
    """The path of the first field of that name in a part and the parts within it."""
    for field in kind.fields:
        if field.name == name:
            return path + name
        if field.message_type is not None and not _is_repeated(field):
            found = _elsewhere(name, field.message_type, f"{path}{field.name}.")
            if found:
                return found
    return None


def _joined(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def described(value: object) -> str:
    """A description of a value for people, with its type."""
    if value is None:
        return "nothing"
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    names = {bool: "the truth value", int: "the number", float: "the number", str: "the text", list: "the list"}
    return f"{names.get(type(value), f'the {type(value).__name__}')} {shown}"


def _plain(message: Message) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is None:
            data[field.name] = list(value) if _is_repeated(field) else value
        elif not _is_repeated(field):
            data[field.name] = _plain(value)
        elif field.message_type is _LANGUAGE_WEIGHT and _is_mapping(value):
            data[field.name] = {entry.language: entry.weight for entry in value}
        else:
            data[field.name] = [_plain(entry) for entry in value]
    return data


def _is_mapping(mix: Sequence[pb.LanguageWeight]) -> bool:
    """Whether a mix can be written as `{language: weight}` without loss."""
    return all(entry.HasField("weight") for entry in mix) and len({entry.language for entry in mix}) == len(mix)


def _is_repeated(field: Any) -> bool:
    """Whether a field is repeated: protobuf has `is_repeated` since 6.31, and `label` before."""
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED

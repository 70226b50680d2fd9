"""What arguments of commands say: specifications in files, and the flags of more than one value."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from secateur._errors import FieldViolation, InvalidRequestError, InvalidSpecError
from secateur._findings import number_meant
from secateur._spec import MAX_FILE_BYTES, layer_override, parse_yaml, read_spec
from secateur._yaml import UnreadableYamlError, YamlLimits
from secateur._yaml import parse_yaml as parse_value
from secateur.cli._flags import shown


def read_content(path: Path | None) -> dict[str, Any]:
    """The specification in a file, `-` for the standard input; empty without one.

    Raises:
        InvalidRequestError: there is no such file, or it cannot be read: the command line is wrong.
        InvalidSpecError: what it holds is no specification.
    """
    if path is None:
        return {}
    if str(path) == "-":
        return parse_yaml(sys.stdin.buffer.read(MAX_FILE_BYTES + 1), "the standard input")
    try:
        return read_spec(path)
    except InvalidSpecError as error:
        if isinstance(error.__cause__, OSError):
            raise InvalidRequestError(error.violations) from error
        raise


def check_folder(path: Path) -> None:
    """Refuse a folder that is not there or cannot be listed.

    Raises:
        InvalidRequestError: why.
    """
    try:
        os.scandir(path).close()
    except OSError as error:
        problem = f"cannot read the folder {path}: {error.strerror}"
        raise InvalidRequestError([FieldViolation("", problem)]) from error


def generation_of(content: Mapping[str, Any]) -> Any:
    """What the file says of text that the model writes, or the defaults."""
    calibration = content.get("calibration")
    return (calibration.get("generation") if isinstance(calibration, Mapping) else None) or {}


def weight_of(text: str) -> dict[str, Any]:
    """A language of the mix, `TAG` or `TAG=WEIGHT`."""
    tag, separator, weight = text.partition("=")
    if not separator:
        return {"language": tag}
    try:
        return {"language": tag, "weight": float(weight)}
    except ValueError:
        raise _not_a_number("--language", text, tag or "de", weight, "0.7") from None


def numbers_by_language(flag: str, texts: Sequence[str], example: str) -> dict[str, float]:
    """`TAG=NUMBER`, by tag; a fault names the flag."""
    found = {}
    for text in texts:
        tag, _, number = text.partition("=")
        try:
            found[tag] = float(number)
        except ValueError:
            raise _not_a_number(flag, text, tag or "uk", number, example) from None
    return found


def _not_a_number(flag: str, text: str, tag: str, number: str, example: str) -> InvalidSpecError:
    meant = number_meant(number)
    fault = f"{number!r} is not a number; {meant or f'expected e.g. {tag}={example}'}"
    return InvalidSpecError([FieldViolation(f"{flag} {shown(text)}", fault)])


def override_of(text: str) -> dict[str, Any]:
    """A target of some layers, `LAYERS=TARGET`."""
    layers, separator, target = text.rpartition("=")
    if not separator:
        fault = "expected LAYERS=TARGET, e.g. '*.down_proj.weight=0.4'"
        raise InvalidSpecError([FieldViolation(f"--override {shown(text)}", fault)])
    try:
        return layer_override(layers, float(target))
    except ValueError:
        return layer_override(layers, target)


def changes_of(texts: Sequence[str]) -> dict[str, Any]:
    """Values by field, `FIELD=VALUE` each, with the value in YAML."""
    changes: dict[str, Any] = {}
    for text in texts:
        field, separator, value = text.partition("=")
        if not separator or not field:
            raise typer.BadParameter(f"--set {shown(text)}: expected FIELD=VALUE, e.g. pruning.sparsity=0.4")
        if field in changes:
            raise typer.BadParameter(f"--set {shown(text)}: {field} is given twice")
        try:
            changes[field] = parse_value(value.encode(), YamlLimits(MAX_FILE_BYTES))
        except UnreadableYamlError as error:
            raise typer.BadParameter(f"--set {shown(text)}: the value is not YAML: {error}") from error
    return changes


def labels_of(texts: Sequence[str]) -> dict[str, str]:
    """Labels, `KEY=VALUE` each."""
    labels: dict[str, str] = {}
    for text in texts:
        key, value = _label(text)
        if key in labels:
            raise typer.BadParameter(f"--label {shown(text)}: {key} is given twice; name each label once")
        labels[key] = value
    return labels


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise typer.BadParameter(f"--label {shown(text)}: expected KEY=VALUE, e.g. team=search")
    return key, value

"""Refusals of a config.json: which field, what it says, and what is expected; also for what a library has raised.

transformers raises whatever its code happens to run into: a division by zero, or an error of validation that names a
field without the object that it lies in. Its owner needs the path of the field to correct it.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from secateur_service.models.weights import ModelRefusedError

FILE = "config.json"

Path = tuple[str, ...]

_MOST_NAMED = 3
_MOST_TRIED = 200


def refused(key: str, value: object, expected: str) -> ModelRefusedError:
    """A refusal of one field."""
    return refused_together({key: value}, expected)


def refused_together(fields: Mapping[str, object], expected: str) -> ModelRefusedError:
    """A refusal of fields of which the same is expected."""
    found = ", ".join(f"{key[:200]} is {_shown(value)}" for key, value in fields.items())
    return ModelRefusedError(f"{FILE}: {found}; expected {expected}")


def refused_by_class(
    config: Mapping[str, Any], error: Exception, make: Callable[[dict[str, Any]], Any]
) -> ModelRefusedError:
    """A refusal for what transformers' class of a configuration raised, with the fields that it is about.

    The fields are those without any one of which the class would be satisfied, or else the one that it names.

    Args:
        config: the content of config.json, or of a part of it.
        error: what the class raised.
        make: makes its object from such a content.
    """
    named = set(re.findall(r"'(\w+)'", str(error).partition("\n")[0]))
    paths: list[Path] = []
    for path in _paths(config):
        has_inner = any(other[: len(path)] == path for other in paths)
        if not has_inner and _is_satisfied(make, _without(config, path)):
            paths.append(path)
    said = [path for path in _paths(config) if path[-1] in named and str(_at(config, path)) in str(error)]
    if said and not any(path[-1] in named for path in paths):
        paths = said
    return _about(config, sorted(paths, key=lambda path: path[-1] not in named)[:_MOST_NAMED], error)


def refused_by_model(config: Mapping[str, Any], error: Exception) -> ModelRefusedError:
    """A refusal for what transformers' model raised while it was built, with the fields that the failing code reads.

    Args:
        config: the content of config.json.
        error: what the model raised.
    """
    paths = list(_paths(config))
    for line in _failing_lines(error):
        words = set(re.findall(r"\w+", line))
        read = [path for path in paths if path[-1] in words]
        if read:
            return _about(config, read[:_MOST_NAMED], error)
    return _about(config, [], error)


def _about(config: Mapping[str, Any], paths: list[Path], error: Exception) -> ModelRefusedError:
    cause = error.__cause__ if error.__cause__ is not None else error
    said = " ".join(f"{type(cause).__name__}: {cause}".split())[:500]
    if not paths:
        return ModelRefusedError(
            f"{FILE}: transformers refuses the configuration ({said}); compare it with that of a published model"
        )
    found = " and ".join(f"{'.'.join(path)[:200]} is {_shown(_at(config, path))}" for path in paths)
    remedy = "correct it" if len(paths) == 1 else "correct one of them"
    return ModelRefusedError(f"{FILE}: {found}, which transformers refuses ({said}); {remedy}")


def _paths(config: Mapping[str, Any]) -> Iterator[Path]:
    """Paths of the fields of a configuration, those of its parts before the parts themselves."""
    for key, value in list(config.items())[:_MOST_TRIED]:
        if key.endswith("_config") and isinstance(value, dict):
            yield from ((key, *path) for path in _paths(value))
        yield (key,)


def _at(config: Mapping[str, Any], path: Path) -> Any:
    return config[path[0]] if len(path) == 1 else _at(config[path[0]], path[1:])


def _without(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if len(path) == 1:
        return {key: value for key, value in config.items() if key != path[0]}
    return {**config, path[0]: _without(config[path[0]], path[1:])}


def _is_satisfied(make: Callable[[dict[str, Any]], Any], config: dict[str, Any]) -> bool:
    try:
        make(config)
    except Exception:  # noqa: BLE001 - whatever it is: this field alone is not the reason
        return False
    return True


def _failing_lines(error: Exception) -> Iterator[str]:
    """The lines of code that an error passed through, from where it was raised outwards."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    for file, number in reversed(frames):
        yield linecache.getline(file, number)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

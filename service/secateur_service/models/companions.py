"""The files that go with a model besides its weights, copied and read before the work begins.

Files that are only carried over are third-party content and never fail a job: one that cannot be read is left out with
a warning. None of them is read again once pruning has begun; the copies are what is published.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur_service.bounded import JsonLimits, UnreadableJsonError, check_json
from secateur_service.models.files import Use, rule_of
from secateur_service.models.license import License, UnreadableCardError, read_license

_CARD = "README.md"
_MAX_FILES = 200
# A vocabulary of a million words in the largest format takes half of this.
_MAX_BYTES = 256 << 20
# The largest file is tokenizer.json: Gemma's has 33 MB and two million values.
_JSON_LIMITS = JsonLimits(64 << 20, values=8_000_000)
_MAX_CARD_BYTES = 16 << 20
_OBJECTS = ("generation_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json")


class UnreadableFileError(ValueError):
    """A file cannot be carried over; the message says why."""


@dataclass(frozen=True)
class Companions:
    """Copies of the files that go with a model.

    Attributes:
        folder: where the copies are, together with a config.json.
        names: those to publish unchanged.
        license: what the model's card declares.
        left_out: files that cannot be read, each with the reason.
    """

    folder: Path
    names: tuple[str, ...]
    license: License | None
    left_out: Mapping[str, str]


def take_companions(
    source: Path,
    names: Collection[str],
    folder: Path,
    config: Mapping[str, Any],
    *,
    repository: str | None = None,
    check_generation: Callable[[dict[str, Any]], None] | None = None,
) -> Companions:
    """Copy the files that go with a model into a folder of our own.

    Args:
        source: the model's folder.
        names: names of its files.
        folder: for the copies; existing content is removed.
        config: content of config.json, needed to find the tokenizer class.
        repository: address that the relative links of the model's card are resolved against.
        check_generation: raises ValueError for the content of a generation_config.json that no loader accepts.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    taken: list[str] = []
    left_out: dict[str, str] = {}
    candidates = [name for name in sorted(names) if rule_of(name).use in (Use.TOKENIZER, Use.CARRIED)]
    for name in candidates[_MAX_FILES:]:
        left_out[name] = f"more than {_MAX_FILES} files go with the model"
    for name in candidates[:_MAX_FILES]:
        try:
            _take(source / name, folder / name, name, check_generation)
        except (UnreadableFileError, OSError) as error:
            left_out[name] = error.strerror or "unreadable" if isinstance(error, OSError) else str(error)
        else:
            taken.append(name)
    found, problem = _license(source / _CARD, taken, repository) if _CARD in names else (None, None)
    if problem:
        left_out[_CARD] = problem
    return Companions(folder, tuple(taken), found, left_out)


def is_readable(source: Path, name: str) -> bool:
    """Whether a file that goes with a model would be taken."""
    try:
        _content_of(source, name, None)
    except (UnreadableFileError, OSError):
        return False
    return True


def _take(source: Path, target: Path, name: str, check_generation: Callable[[dict[str, Any]], None] | None) -> None:
    """Copy a file, unchanged except that references to unpublished code are removed."""
    content = _content_of(source, name, check_generation)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _content_of(source: Path, name: str, check_generation: Callable[[dict[str, Any]], None] | None) -> bytes:
    content = _read(source, _MAX_BYTES)
    if name.endswith(".jinja"):
        _text(content)
    if name.endswith(".json") and rule_of(name).use is Use.CARRIED:
        parsed = _json(content)
        if name in _OBJECTS and not isinstance(parsed, dict):
            raise UnreadableFileError("it is not a JSON object")
        if name == "special_tokens_map.json" and not all(map(_names_tokens, parsed.values())):
            raise UnreadableFileError("it names something that is not a token")
        if name == "added_tokens.json" and not all(type(number) is int for number in parsed.values()):
            raise UnreadableFileError("it gives a token something that is not a number")
        if name == "generation_config.json" and check_generation is not None:
            try:
                check_generation(parsed)
            except Exception as error:  # whatever the library raises on such values, the file is unusable
                raise UnreadableFileError("it holds values that transformers refuses") from error
    return _without_code(content) if name.endswith("config.json") else content


def _license(card: Path, taken: Collection[str], repository: str | None) -> tuple[License | None, str | None]:
    """The license, or the reason why the card cannot be read."""
    try:
        return read_license(_read(card, _MAX_CARD_BYTES), taken, repository), None
    except (UnreadableCardError, UnreadableFileError) as error:
        return None, f"{error}; its license is not carried over"
    except OSError as error:
        return None, f"{error.strerror}; its license is not carried over"


def _names_tokens(value: Any) -> bool:
    """Whether special tokens are given as transformers accepts them: as strings, or strings with attributes."""
    if isinstance(value, dict):
        inner = [part for part in value.values() if not isinstance(part, bool | int)]
        return all(map(_names_tokens, inner))
    if isinstance(value, list):
        return all(map(_names_tokens, value))
    return value is None or isinstance(value, str)


def _read(path: Path, limit_bytes: int) -> bytes:
    if not path.is_file():
        raise UnreadableFileError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise UnreadableFileError(f"it is larger than {limit_bytes} bytes")
    return content


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UnreadableFileError("it is not UTF-8") from error


def _json(content: bytes) -> Any:
    try:
        check_json(content, _JSON_LIMITS)
        return json.loads(_text(content))
    except UnreadableJsonError as error:
        raise UnreadableFileError(str(error)) from error
    except UnreadableFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise UnreadableFileError("it is not valid JSON") from error


def _without_code(content: bytes) -> bytes:
    """A configuration without references to the model's own code; unchanged if it has none or cannot be read."""
    if b'"auto_map"' not in content:
        return content
    try:
        parsed = _json(content)
    except UnreadableFileError:
        return content
    if not isinstance(parsed, dict):
        return content
    plain = {key: value for key, value in parsed.items() if key != "auto_map"}
    return (json.dumps(plain, indent=2, ensure_ascii=False) + "\n").encode()

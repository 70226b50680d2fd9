"""The files of a checkpoint that hold its weights, and the tensors in them by name.

Follows what transformers and vLLM load, and refuses a folder if the two would load different weights. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from secateur_service.bounded import JsonLimits, UnreadableJsonError, parse_json
from secateur_service.models.files import INDEX, SINGLE, Use, rule_of
from secateur_service.models.safetensors import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    MalformedCheckpointError,
    TensorInfo,
    UnsupportedTypeError,
    header_bytes,
    read_header,
)

# config.json: no model has a billion labels; some quantised ones list every layer.
CONFIG_LIMITS = JsonLimits(4 << 20, values=200_000)
# One entry per tensor.
INDEX_LIMITS = JsonLimits(32 << 20, values=4 * MAX_TENSORS, depth=8)
_MAX_SHARDS = 4096


class ModelRefusedError(ValueError):
    """The folder does not hold a model that can be pruned; the message says why and what to do."""


def named_files(folder: Path) -> set[str]:
    """The names of files that may hold the weights: those in the index, if there is one.

    Raises:
        ModelRefusedError: the index is malformed.
    """
    return {str(name) for name in _weight_map(folder).values()} if (folder / INDEX).is_file() else {SINGLE}


def _weight_files(folder: Path) -> list[str]:
    """The names of the files whose tensors transformers and vLLM load: those in the index, or the single file.

    Raises:
        ModelRefusedError: there are none, or the two would load different ones.
    """
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            raise ModelRefusedError(
                f"no safetensors checkpoint in {folder} ({SINGLE} or {INDEX}); other formats are never opened, "
                "convert the model with save_pretrained"
            )
        return [SINGLE]
    files = sorted(named_files(folder))
    if len(files) > _MAX_SHARDS:
        raise ModelRefusedError(f"{INDEX} names {len(files)} files; at most {_MAX_SHARDS} are read")
    for name in files:
        if "/" in name or "\\" in name or not (folder / name).is_file():
            raise ModelRefusedError(f"{INDEX} names {name!r}, which is not a file of the folder")
        if not name.endswith(".safetensors"):
            raise ModelRefusedError(f"{INDEX} names {name!r}; weights in other formats are never opened")
    if files != [SINGLE] and (folder / SINGLE).is_file():
        raise ModelRefusedError(
            f"{SINGLE} lies beside {INDEX}, which names {files[0]} and others: transformers would load the former and "
            "vLLM the latter; take one of them out of the folder"
        )
    return files


def _weight_map(folder: Path) -> dict[str, Any]:
    weight_map = read_object(folder / INDEX, INDEX_LIMITS).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelRefusedError(f"{INDEX} has no weight_map")
    return weight_map


def read_tensors(folder: Path) -> tuple[dict[str, TensorInfo], list[str]]:
    """All tensors that loaders find in the weight files, and what is unusual about these files.

    Loaders take every tensor of a file that the index names, whatever the index says about the tensor.

    Raises:
        ModelRefusedError: a file is missing or malformed, or a tensor is missing or occurs twice.
    """
    files = _weight_files(folder)
    found: dict[str, TensorInfo] = {}
    for name, header in _headers(folder, files):
        for tensor in sorted(header.keys() & found.keys()):
            raise ModelRefusedError(
                f"{tensor} is in {found[tensor].path.name} and in {name}; loaders take the one or the other, keep one"
            )
        found |= header
        if len(found) > MAX_TENSORS:
            raise ModelRefusedError(f"the files have more than {MAX_TENSORS} tensors, which are too many to be read")
    if not (folder / INDEX).is_file():
        return found, _notes_on_others(folder, found)
    weight_map = _weight_map(folder)
    missing = sorted(weight_map.keys() - found.keys())
    if missing:
        raise ModelRefusedError(f"{len(missing)} tensors of {INDEX} are in no file, the first is {missing[0]}")
    notes = []
    if unnamed := sorted(found.keys() - weight_map.keys()):
        notes.append(f"{INDEX} lacks {len(unnamed)} tensors of its files, the first is {unnamed[0]}; they are taken")
    if misplaced := sorted(name for name, file in weight_map.items() if found[name].path.name != file):
        notes.append(
            f"{INDEX} names {weight_map[misplaced[0]]} for {misplaced[0]}, which is in "
            f"{found[misplaced[0]].path.name}; it is taken from there, as are {len(misplaced) - 1} others"
        )
    return found, notes


def _notes_on_others(folder: Path, found: dict[str, TensorInfo]) -> list[str]:
    """Without an index, vLLM loads every weight file in a folder; transformers does not, and neither do we."""
    notes = []
    others = [path.name for path in sorted(folder.glob("*.safetensors")) if rule_of(path.name).use is Use.WEIGHTS]
    for name in others[:_MAX_SHARDS]:
        if name == SINGLE or not (folder / name).is_file():
            continue
        try:
            [(_, header)] = _headers(folder, [name])
            twice = sorted(header.keys() & found.keys())
        except ModelRefusedError:
            twice = []
        again = f", {twice[0]} and {len(twice) - 1} others a second time" if twice else ""
        notes.append(
            f"{name} is left out, as transformers does; vLLM would load it beside {SINGLE} of the dense model{again}"
        )
    return notes


def _headers(folder: Path, files: Iterable[str]) -> Iterable[tuple[str, dict[str, TensorInfo]]]:
    left = MAX_HEADER_BYTES
    for name in files:
        try:
            left -= header_bytes(folder / name)
            if left < 0:
                raise ModelRefusedError(f"the headers of the files are larger than {MAX_HEADER_BYTES} bytes together")
            yield name, read_header(folder / name)
        except UnsupportedTypeError as error:
            raise ModelRefusedError(str(error)) from error
        except MalformedCheckpointError as error:
            raise ModelRefusedError(f"{error}; fetch the model again") from error


def read_object(path: Path, limits: JsonLimits) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelRefusedError: it is missing, exceeds the limits, or is not a JSON object.
    """
    name = path.name
    if not path.is_file():
        raise ModelRefusedError(f"no {name} in {path.parent}; give the folder of a complete model")
    with path.open("rb") as file:
        raw = file.read(limits.size_bytes + 1)
    if len(raw) > limits.size_bytes:
        raise ModelRefusedError(f"{name} is larger than {limits.size_bytes} bytes; no model needs that much")
    try:
        content = parse_json(raw, limits)
    except UnreadableJsonError as error:
        raise ModelRefusedError(f"{name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelRefusedError(f"{name} is not a JSON object")
    return content

"""What is needed to check a remote folder without fetching it: configuration, index, headers of weights, and sizes.

For these purposes the outline looks like the folder itself. Safetensors files have their header; the rest of them, and
all of any other file, is a hole of the right size, which takes no space.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from secateur_service.errors import TransientError
from secateur_service.models.safetensors import MAX_HEADER_BYTES
from secateur_service.models.tokenizer import TOKENIZER_BYTES
from secateur_service.models.weights import CONFIG_LIMITS, INDEX_LIMITS
from secateur_service.sources.reference import ReferenceRefusedError
from secateur_service.sources.remote import RemoteFile, RemoteFolder
from secateur_service.tasks.task_files import TASK_FILE_BYTES

_FIRST_BYTES = 1 << 16
_CONNECTIONS = 8
_TRIES = 3


def write_metadata(remote: RemoteFolder, names: Collection[str], folder: Path) -> None:
    """Write the outline of some files of a remote folder into an existing folder.

    Raises:
        ReferenceRefusedError: as for `RemoteFolder.read`, or the headers are too large to read.
        TransientError: as for `RemoteFolder.read`.
    """
    room = _Room(MAX_HEADER_BYTES + 8 * len(names))
    with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="outline") as pool:
        list(pool.map(lambda name: _write(remote, remote.files[name], folder / name, room), names))


class _Room:
    """The bytes left for the headers of all files together: each may be small, but there may be many."""

    def __init__(self, size_bytes: int) -> None:
        self._left = size_bytes
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> None:
        with self._lock:
            self._left -= size_bytes
            if self._left < 0:
                raise ReferenceRefusedError(
                    f"the headers of its files are larger than {MAX_HEADER_BYTES} bytes together, which takes too much "
                    "to read; are they safetensors files?"
                )


def _write(remote: RemoteFolder, file: RemoteFile, path: Path, room: _Room) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as outline:
        limit = _size_limit(file.name)
        if limit is not None:
            if file.size_bytes > limit:
                raise ReferenceRefusedError(f"{file.name} is larger than {limit} bytes; no model needs that much")
            _copy(remote, file, 0, file.size_bytes, outline)
        elif file.name.endswith(".safetensors"):
            _copy_header(remote, file, outline, room)
        try:
            outline.truncate(file.size_bytes)
        except OSError as error:
            raise ReferenceRefusedError(f"{file.name} claims {file.size_bytes} bytes; no disk has them") from error
    os.utime(path, ns=(0, 0))  # as `fetch_file` does


def _size_limit(name: str) -> int | None:
    """The most bytes to read of a file that is read whole; None for other files."""
    if name.endswith(".index.json"):
        return INDEX_LIMITS.size_bytes
    if name == "config.json":
        return CONFIG_LIMITS.size_bytes
    if name.endswith(".yaml"):
        return TASK_FILE_BYTES
    return TOKENIZER_BYTES.get(name)


def _copy_header(remote: RemoteFolder, file: RemoteFile, outline: BinaryIO, room: _Room) -> None:
    """Copy the header and its length, or what exists of it: its reader reports any fault."""
    first = min(file.size_bytes, _FIRST_BYTES)
    with io.BytesIO() as begin:
        _copy(remote, file, 0, first, begin)
        content = begin.getvalue()
    end = 8 + int.from_bytes(content[:8], "little")
    outline.write(content[: max(end, 8)])
    if end <= min(file.size_bytes, 8 + MAX_HEADER_BYTES):
        room.take(end)
        _copy(remote, file, first, end, outline)


def _copy(remote: RemoteFolder, file: RemoteFile, start: int, stop: int, target: BinaryIO) -> None:
    """Copy the bytes [start, stop) of a file, resuming where a connection broke off."""
    for tries in range(1, _TRIES + 1):
        try:
            for piece in remote.read(file, start, stop):
                target.write(piece)
                start += len(piece)
        except TransientError:
            if tries == _TRIES:
                raise
        if start >= stop:
            return
    raise TransientError(f"{file.name} ends early", reason="SOURCE_SHORT")

"""What is needed to judge a remote folder without fetching it: configuration, index, headers of weights, and sizes.

To who reads no more, the outline looks like the folder itself. Of safetensors files the header is there; the rest of
them, and all of other files, is a hole of the right size, which takes no room.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from secateur_service.errors import TransientError
from secateur_service.models.safetensors import MAX_HEADER_BYTES
from secateur_service.sources.reference import ReferenceRefusedError
from secateur_service.sources.remote import RemoteFile, RemoteFolder

_READ_WHOLE = ("config.json", ".index.json")
_MAX_JSON_BYTES = 50_000_000
_FIRST_BYTES = 1 << 16
_CONNECTIONS = 8
_TRIES = 3


def write_outline(remote: RemoteFolder, names: Collection[str], folder: Path) -> None:
    """Write the outline of some files of a remote folder into an existing one.

    Raises:
        ReferenceRefusedError, TransientError: as `RemoteFolder.read` does.
    """
    with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="outline") as pool:
        list(pool.map(lambda name: _write(remote, remote.files[name], folder / name), names))


def _write(remote: RemoteFolder, file: RemoteFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.name.endswith(_READ_WHOLE):
        if file.size_bytes > _MAX_JSON_BYTES:
            raise ReferenceRefusedError(f"{file.name} is larger than {_MAX_JSON_BYTES} bytes")
        path.write_bytes(_read(remote, file, 0, file.size_bytes))
        return
    content = _header(remote, file) if file.name.endswith(".safetensors") else b""
    with path.open("wb") as sparse:
        sparse.write(content)
        try:
            sparse.truncate(file.size_bytes)
        except OSError as error:
            raise ReferenceRefusedError(f"{file.name} claims {file.size_bytes} bytes; no disk has them") from error
    os.utime(path, ns=(0, 0))  # as `fetch_file` does


def _header(remote: RemoteFolder, file: RemoteFile) -> bytes:
    """The length of the header and the header, or what there is of it: its reader finds what is wrong."""
    content = _read(remote, file, 0, min(file.size_bytes, _FIRST_BYTES))
    end = 8 + int.from_bytes(content[:8], "little")
    if len(content) < end <= min(file.size_bytes, 8 + MAX_HEADER_BYTES):
        content += _read(remote, file, len(content), end)
    return content[: max(end, 8)]


def _read(remote: RemoteFolder, file: RemoteFile, start: int, stop: int) -> bytes:
    for tries in range(1, _TRIES + 1):
        try:
            content = b"".join(remote.read(file, start, stop))
        except TransientError:
            if tries == _TRIES:
                raise
        else:
            if len(content) == stop - start:
                return content
    raise TransientError(f"{file.name} ends early", reason="SOURCE_SHORT")

"""Keeps a few shards at a time of a remote model on this machine, if the disk cannot hold all of it.

One folder has what is needed to open the checkpoint: small files, and outlines of the shards. A shard is fetched into
another folder when one of its tensors is read, whole and verified like everything else; the least recently read shards
make room for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO

from secateur._text import size
from secateur_service.errors import ResourceError
from secateur_service.sources.cache import fetch_file, there
from secateur_service.sources.metadata import write_metadata
from secateur_service.sources.remote import RemoteFile, RemoteFolder

_SHARD = ".safetensors"


class Window:
    """The wanted files of a remote folder, whose shards come and go.

    Args:
        remote: the remote folder.
        names: the files, as relative paths.
        place: private folder for them; what an earlier attempt left there is reused.
        limit_bytes: the most space that shards may take.
        check: called often; raises to stop.
        on_shard: called with a shard's name and size in bytes before it is fetched.
        on_progress: called with how many bytes of the shard are there and its size, in the thread that opens it.

    Attributes:
        folder: looks like the remote folder to readers of names, sizes, small files and headers.

    Raises:
        ReferenceRefusedError, TransientError: as for `RemoteFolder.read`.
        ResourceError: with reason DISK_TOO_SMALL: not even the largest shard fits.
    """

    def __init__(
        self,
        remote: RemoteFolder,
        names: Collection[str],
        place: Path,
        limit_bytes: int,
        check: Callable[[], None] = lambda: None,
        on_shard: Callable[[str, int], None] = lambda _name, _bytes: None,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self.folder = place / "outline"
        self._shards = place / "shards"
        self._remote = remote
        self._limit_bytes = limit_bytes
        self._check = check
        self._on_shard = on_shard
        self._on_progress = on_progress
        self._lock = threading.Lock()
        for folder in (self.folder, self._shards):
            folder.mkdir(parents=True, exist_ok=True)
        largest = max((remote.files[name] for name in names if name.endswith(_SHARD)), key=_size, default=None)
        if largest is not None and largest.size_bytes > limit_bytes:
            raise ResourceError(
                f"not even {largest.name} of {size(largest.size_bytes)} fits on the disk, where the model may "
                f"take {size(limit_bytes)}; make room below the data folder, or raise SECATEUR_CACHE_BYTES",
                reason="DISK_TOO_SMALL",
            )
        write_metadata(remote, [name for name in names if name.endswith((_SHARD, ".json"))], self.folder)
        for name in names:
            if not name.endswith(_SHARD):
                (self.folder / name).unlink(missing_ok=True)
                for _ in fetch_file(remote, remote.files[name], self.folder, check):
                    pass
        self._held = sorted(path.name for path in self._shards.glob(f"*{_SHARD}"))  # least recently read first

    def open(self, path: Path) -> BinaryIO:
        """Open a file of the folder for reading; it stays readable even after it has made room for another.

        Raises:
            ReferenceRefusedError, TransientError: as for `Cache.fetch`.
        """
        name = path.relative_to(self.folder).as_posix()
        with self._lock:
            if name not in self._held:
                self._fetch(self._remote.files[name])
            self._held.remove(name)
            self._held.append(name)
            return (self._shards / name).open("rb", buffering=0)

    def _fetch(self, file: RemoteFile) -> None:
        while self._held and self._held_bytes() + file.size_bytes > self._limit_bytes:
            (self._shards / self._held.pop(0)).unlink()
        self._on_shard(file.name, file.size_bytes)
        done = there(self._shards, file)
        for count in fetch_file(self._remote, file, self._shards, self._check):
            done += count
            self._on_progress(done, file.size_bytes)
        self._held.append(file.name)

    def _held_bytes(self) -> int:
        return sum(self._remote.files[name].size_bytes for name in self._held)


def _size(file: RemoteFile) -> int:
    return file.size_bytes

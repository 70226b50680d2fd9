"""A cache of remote folders on this machine: each is in a folder named after its content, and stays for later jobs.

A worker holds a shared lock on the entries it uses as long as it lives, so that they cannot be evicted. While fetching,
it holds another, exclusive lock, so that two jobs fetch a model only once. Files get their final names only when
complete and verified; a download begun by a killed worker is resumed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import structlog

from secateur._text import size
from secateur_service.durable import file_digest, sync
from secateur_service.errors import ResourceError, TransientError
from secateur_service.sources.remote import RemoteFile, RemoteFolder

TRIES = 5
WAIT_SECONDS = 1.0
_POLL_SECONDS = 0.2
_PARTIAL = ".partial"
_USED = ".used"
_REFERENCE = ".reference"

_log = structlog.get_logger(__name__)


class Cache:
    """Folders below `folder`, at most `limit_bytes` in total (0 for as much as the disk can hold)."""

    def __init__(self, folder: Path, limit_bytes: int = 0) -> None:
        self._entries, self._locks = folder / "entries", folder / "locks"
        self._limit_bytes = limit_bytes
        self._held: dict[str, int] = {}

    def fetch(
        self,
        remote: RemoteFolder,
        names: Collection[str],
        *,
        reference: str = "",
        check: Callable[[], None] = lambda: None,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Path:
        """A folder with the named files of a remote one; it stays until `release` or the end of the process.

        Args:
            remote: the remote folder.
            names: the files, as relative paths.
            reference: what it is listed by in `models`; not at all without one.
            check: called often; raises to stop.
            on_progress: called with the bytes present and the total bytes.

        Raises:
            ReferenceRefusedError, TransientError: as for `RemoteFolder.read`; what was fetched is kept.
            TransientError: with reason SOURCE_DAMAGED, if a file's digest differs from the source's.
            ResourceError: with reason CACHE_TOO_SMALL or DISK_TOO_SMALL.
        """
        key = hashlib.sha256(remote.identity.encode()).hexdigest()[:32]
        self._hold(key)
        entry = self._entries / key
        entry.mkdir(parents=True, exist_ok=True)
        files = [remote.files[name] for name in sorted(names)]
        with self._alone(f"{key}.fetch", check):
            done = sum(there(entry, file) for file in files)
            total = sum(file.size_bytes for file in files)
            self._make_room(total - done, key)
            on_progress(done, total)
            for file in files:
                for count in fetch_file(remote, file, entry, check):
                    done += count
                    on_progress(done, total)
        if reference:
            (entry / _REFERENCE).write_text(reference, encoding="utf-8")
        (entry / _USED).touch()
        return entry

    def models(self) -> frozenset[str]:
        """The references of models whose weights are here."""
        found = set()
        for note in self._entries.glob(f"*/{_REFERENCE}"):
            with contextlib.suppress(OSError):  # it may be evicted meanwhile
                if any(note.parent.glob("*.safetensors")):
                    found.add(note.read_text(encoding="utf-8"))
        return frozenset(found)

    def window_bytes(self, place: Path) -> int:
        """Space for the shards of a model that is not fetched whole: half of the free disk space, within the limit."""
        half = shutil.disk_usage(place).free // 2
        return min(half, self._limit_bytes) if self._limit_bytes else half

    def release(self) -> None:
        """Allow everything that this process held to be evicted."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    def _hold(self, key: str) -> None:
        if key not in self._held:
            descriptor = self._open_lock(key)
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # an eviction only lasts as long as removing files
            self._held[key] = descriptor

    @contextlib.contextmanager
    def _alone(self, name: str, check: Callable[[], None]) -> Iterator[None]:
        descriptor = self._open_lock(name)
        try:
            while not _try_lock(descriptor):
                check()
                time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def _open_lock(self, name: str) -> int:
        self._locks.mkdir(parents=True, exist_ok=True)
        return os.open(self._locks / name, os.O_RDWR | os.O_CREAT, 0o600)

    def _make_room(self, needed: int, key: str) -> None:
        """Evict the least recently used entries that nobody holds."""
        sizes = {entry.name: _size(entry) for entry in self._entries.iterdir()}
        others = sum(taken for name, taken in sizes.items() if name != key)
        if (hopeless := self._short_of(needed, sizes.get(key, 0), freed=others)) is not None:
            raise hopeless
        oldest = sorted((name for name in sizes if name != key), key=self._last_use)
        while (short := self._short_of(needed, sum(sizes.values()))) is not None:
            evicted = next((name for name in oldest if self._evict(name)), None)
            if evicted is None:
                raise short
            oldest = oldest[oldest.index(evicted) + 1 :]
            del sizes[evicted]

    def _short_of(self, needed: int, used: int, *, freed: int = 0) -> ResourceError | None:
        if self._limit_bytes and needed + used > self._limit_bytes:
            return ResourceError(
                f"the model cache may take {size(self._limit_bytes)}, {size(used)} are in use and "
                f"{size(needed)} are to be fetched; raise SECATEUR_CACHE_BYTES, or wait for other jobs",
                reason="CACHE_TOO_SMALL",
            )
        free = shutil.disk_usage(self._entries).free + freed
        if needed > free:
            return ResourceError(
                f"{size(needed)} are to be fetched, and {size(free)} are free below {self._entries}; make "
                "room there, or point SECATEUR_CACHE_DIR at a larger disk",
                reason="DISK_TOO_SMALL",
            )
        return None

    def _last_use(self, name: str) -> float:
        used = self._entries / name / _USED
        return used.stat().st_mtime if used.exists() else 0.0

    def _evict(self, name: str) -> bool:
        descriptor = self._open_lock(name)
        try:
            if not _try_lock(descriptor):
                return False
            _log.info("evicted from the cache", entry=name)
            shutil.rmtree(self._entries / name, ignore_errors=True)
            return True
        finally:
            os.close(descriptor)


def fetch_file(remote: RemoteFolder, file: RemoteFile, entry: Path, check: Callable[[], None]) -> Iterator[int]:
    """Fetch the missing part of a file into a folder; yields the number of bytes of each piece.

    Raises:
        ReferenceRefusedError, TransientError: as for `Cache.fetch`.
    """
    target, partial = entry / file.name, entry / (file.name + _PARTIAL)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    tries = 0
    while (have := partial.stat().st_size if partial.exists() else 0) < file.size_bytes or not partial.exists():
        try:
            with partial.open("ab") as output:
                for piece in remote.read(file, have, file.size_bytes):
                    check()
                    output.write(piece)
                    tries = 0 if piece else tries
                    yield len(piece)
        except TransientError:
            if tries == TRIES:
                raise
        if partial.stat().st_size == have < file.size_bytes:
            tries += 1
            if tries > TRIES:
                raise TransientError(f"{file.name} ends after {have} of {file.size_bytes} bytes", reason="SOURCE_SHORT")
            time.sleep(WAIT_SECONDS * tries)
    if file.sha256 is not None and file_digest(partial) != file.sha256:
        partial.unlink()
        raise TransientError(
            f"{file.name} does not have the content that the source announced", reason="SOURCE_DAMAGED"
        )
    os.utime(partial, ns=(0, 0))  # a version always has the same time, wherever and whenever it is fetched
    sync(partial)
    partial.replace(target)
    sync(target.parent)


def there(entry: Path, file: RemoteFile) -> int:
    """Bytes of a file that need not be fetched."""
    for path in (entry / file.name, entry / (file.name + _PARTIAL)):
        if path.exists():
            return min(path.stat().st_size, file.size_bytes)
    return 0


def _size(entry: Path) -> int:
    return sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

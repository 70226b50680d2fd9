"""The default, embedded object store: a folder on this machine.

Its files get the mode that the user's umask gives: they are for others, unlike everything else the service writes.
Large files are linked rather than copied if the file system allows it, so that publishing a checkpoint needs no second
copy of it. Small files are copied: a link shares its bytes with the source, and a report may be rewritten.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from secateur._foreign import detail_of
from secateur_service.artifacts.port import FORBIDDEN, OBJECT_NOT_FOUND, REFUSED, STORE_FULL, ObjectInfo, check_key
from secateur_service.durable import sync
from secateur_service.errors import PermanentError, ResourceError
from secateur_service.private_files import publish

PARTIAL_PREFIX = ".partial-"
LINKED_FROM_BYTES = 32 * 2**20
_READ_BYTES = 1 << 20


class DirectoryStore:
    """Objects as files below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def put_file(
        self,
        path: Path,
        key: str,
        media_type: str,  # noqa: ARG002 - a folder keeps no media types
        on_read: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Link or copy a file in; does nothing if it is already in place."""
        target = self._path(key)
        with _translated(f"storing {key}", absent=REFUSED):
            if not (target.exists() and target.samefile(path)):
                self._publish(target, lambda partial: _link_or_copy(path, partial, on_read))

    def put_bytes(self, key: str, content: bytes, media_type: str) -> None:  # noqa: ARG002
        """Write a file and rename it into place."""
        with _translated(f"storing {key}", absent=REFUSED):
            self._publish(self._path(key), lambda partial: partial.write_bytes(content))

    def put_new(self, key: str, content: bytes, media_type: str) -> bool:  # noqa: ARG002
        """Write a file and link it to its name, which fails if the name is taken."""
        target = self._path(key)
        with _translated(f"storing {key}", absent=REFUSED), _partial_beside(target) as partial:
            partial.write_bytes(content)
            publish(partial)
            sync(partial)
            try:
                os.link(partial, target)
            except FileExistsError:
                return False
            sync(target.parent)
        return True

    def get_bytes(self, key: str) -> bytes:
        """Read a file."""
        with _translated(f"reading {key}"):
            return self._path(key).read_bytes()

    def get_file(self, key: str, path: Path) -> None:
        """Copy a file out."""
        source = self._path(key)
        with _translated(f"reading {key}"):
            _replace(path, lambda partial: shutil.copyfile(source, partial))

    def stat(self, key: str) -> ObjectInfo | None:
        """Look at a file."""
        path = self._path(key)
        with _translated(f"looking at {key}"):
            try:
                return ObjectInfo(size_bytes=path.stat().st_size) if path.is_file() else None
            except FileNotFoundError:
                return None

    def list_keys(self, prefix: str) -> Iterator[str]:
        """Walk the folder."""
        with _translated(f"listing {prefix}"):
            for folder, _, names in os.walk(self._folder_of(prefix)):
                for name in names:
                    key = (Path(folder) / name).relative_to(self._root).as_posix()
                    if key.startswith(prefix) and not name.startswith(PARTIAL_PREFIX):
                        yield key

    def list_objects(self, prefix: str) -> Iterator[tuple[str, ObjectInfo]]:
        """Walk the folder; a file's version is its modification time."""
        for key in self.list_keys(prefix):
            with _translated(f"looking at {key}"):
                stat = self._path(key).stat()
            yield key, ObjectInfo(size_bytes=stat.st_size, version=str(stat.st_mtime_ns))

    def read_range(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Read a part of a file."""
        with _translated(f"reading {key}"), self._path(key).open("rb") as file:
            file.seek(start)
            while start < stop and (piece := file.read(min(stop - start, _READ_BYTES))):
                start += len(piece)
                yield piece

    def delete(self, key: str) -> None:
        """Remove a file, and the folders left empty by this."""
        path = self._path(key)
        with _translated(f"removing {key}"):
            path.unlink(missing_ok=True)
            self._remove_empty(path.parent)

    def abort_uploads(self, prefix: str) -> int:
        """Remove the partial files of processes that are gone."""
        with _translated(f"clearing {prefix}"):
            found = list(self._folder_of(prefix).rglob(PARTIAL_PREFIX + "*/"))
            for folder in found:
                shutil.rmtree(folder, ignore_errors=True)
                self._remove_empty(folder.parent)
            return len(found)

    def download_url(self, key: str, expires_seconds: float) -> tuple[str, datetime | None]:  # noqa: ARG002
        """A `file` URL; it does not expire."""
        return self.uri(key), None

    def uri(self, key: str) -> str:
        """A `file` URL."""
        return self._path(key).as_uri()

    def _path(self, key: str) -> Path:
        """The path of a key.

        Raises:
            PermanentError: the key, or a symbolic link on its path, leads out of the root.
        """
        path = self._root / check_key(key)
        if not path.parent.resolve().is_relative_to(self._root) or path.is_symlink():
            raise PermanentError(f"{key} leads out of the artifact folder through a symbolic link", reason=FORBIDDEN)
        return path

    def _folder_of(self, prefix: str) -> Path:
        """The folder that contains all keys with a prefix."""
        return self._root / check_key(prefix.rpartition("/")[0]) if "/" in prefix else self._root

    def _remove_empty(self, folder: Path) -> None:
        """Remove a folder of the store and its parents as long as they are empty."""
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
                    return
                raise
            folder = folder.parent

    def _publish(self, target: Path, fill: Callable[[Path], object]) -> None:
        def fill_for_others(partial: Path) -> None:
            fill(partial)
            publish(partial)

        _replace(target, fill_for_others)


def _replace(target: Path, fill: Callable[[Path], object]) -> None:
    with _partial_beside(target) as partial:
        fill(partial)
        sync(partial)
        partial.replace(target)
        sync(target.parent)


@contextmanager
def _partial_beside(target: Path) -> Iterator[Path]:
    """An unused name in the target's folder; removed afterwards unless it was renamed."""
    _make_folder(target.parent)
    folder = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=target.parent))
    try:
        yield folder / (PARTIAL_PREFIX + "content")
    finally:
        shutil.rmtree(folder)


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents durably."""
    if not folder.exists():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        publish(folder)
        sync(folder.parent)


def _link_or_copy(source: Path, target: Path, on_read: Callable[[int], None]) -> None:
    if source.stat().st_size < LINKED_FROM_BYTES:
        shutil.copyfile(source, target)
        return
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
            raise
        with source.open("rb") as read, target.open("wb") as written:
            while piece := read.read(_READ_BYTES):
                written.write(piece)
                on_read(len(piece))


@contextmanager
def _translated(action: str, *, absent: str = OBJECT_NOT_FOUND) -> Iterator[None]:
    """Convert the operating system's errors to the port's; `absent` is the reason for a missing file."""
    try:
        yield
    except FileNotFoundError as error:
        raise PermanentError(f"{action}: there is no {error.filename}", reason=absent) from error
    except PermissionError as error:
        raise PermanentError(
            f"{action}: the service's user may not use {error.filename}; change its owner or mode", reason=FORBIDDEN
        ) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ResourceError(f"{action}: the artifact folder's disk is full", reason=STORE_FULL) from error
        raise PermanentError(f"{action}: {detail_of(error)}", reason=REFUSED) from error

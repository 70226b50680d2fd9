"""Values read from files that may be replaced while the server runs.

Replacing a file must neither lock everybody out nor let everybody in: the last good value stays in use until a new one
can be read. The files' identities are polled a few times a second. Change notifications would not do, because secrets
that are mounted into containers are replaced by switching links.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class UnusableFileError(Exception):
    """A file that a setting names cannot be used; the message is one line with the setting, the file and the remedy."""


class Reloading(Generic[T]):
    """A value that is read from files, and reread when they change."""

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """Read the value for the first time.

        Args:
            paths: The files it comes from.
            read: Reads the value, or raises `UnusableFileError`.

        Raises:
            UnusableFileError: the files cannot be used.
        """
        self._paths = tuple(paths)
        self._read = read
        self._seen = self._identities()
        self._complaint = ""
        self.value = read()

    def look(self) -> None:
        """Reread the value if a file has changed or the last try failed; a repeated failure is logged only once."""
        seen = self._identities()
        if seen == self._seen and not self._complaint:
            return
        self._seen = seen
        files = [str(path) for path in self._paths]
        try:
            self.value = self._read()
        except Exception as error:  # noqa: BLE001  # whatever it is: the old value stays, and the next look retries
            complaint = str(error) if isinstance(error, UnusableFileError) else repr(error)
            if complaint != self._complaint:
                _log.error("changed files cannot be used; what was read before stays in use", error=complaint)
            self._complaint = complaint
        else:
            self._complaint = ""
            _log.info("changed files are in use", files=files)

    def _identities(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(_identity(path) for path in self._paths)


def _identity(path: Path) -> tuple[int, ...] | None:
    """What distinguishes a file from its replacement; None if no file is visible."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

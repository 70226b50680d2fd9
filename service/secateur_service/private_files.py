"""File permissions on a machine with several users.

What the service keeps (jobs, logs, work directories, locks, caches) is private to its user: whoever may open a database
or a lock may also hold it and stop every job. So its commands set the umask to 077 when they start. What they publish
is for others: it gets the mode that the original umask gives. At start, the service reports files it reads that others
could write or read, with the command that fixes each.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PRIVATE_UMASK = 0o077

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_given: list[int] = []  # global, because the umask belongs to the process


def keep_files_private() -> None:
    """From now on, create files for this user only."""
    before = os.umask(PRIVATE_UMASK)
    if not _given:
        _given.append(before)


def given_umask() -> int:
    """The umask that this process was started with, for its children; -1 if it has not changed it."""
    return _given[0] if _given else -1


def publish(path: Path) -> None:
    """Give a file or folder created here the mode that the user's umask gives."""
    if _given:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~_given[0])


def make_public_folder(folder: Path) -> None:
    """Make a folder and any missing parents, with the mode that the user's umask gives."""
    if not folder.exists():
        make_public_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        publish(folder)


@dataclass(frozen=True)
class Exposed:
    """A file or folder that others may use.

    Attributes:
        what: the setting that names it, or a description.
        writable: whether others may write it; if not, they may read it.
        command: the command that fixes it.
    """

    what: str
    path: Path
    writable: bool
    command: str

    def __str__(self) -> str:
        may = "write" if self.writable else "read"
        return f"{self.what} {self.path}: other users of this machine may {may} it; {self.command}"


def tighten(what: str, path: Path) -> Exposed | None:
    """Revoke others' access to a file or folder; returns what they keep if this user may not change it."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:  # it is not there, or whoever uses it reports this
        return None
    try:
        if mode & _OTHERS:
            path.chmod(mode & ~_OTHERS)
    except OSError:  # owned by another user, such as the mount point of a volume
        writable = bool(mode & stat.S_IWOTH)
        return Exposed(what, path, writable, f"chmod go-rwx {path}") if mode & stat.S_IRWXO else None
    return None


def exposed(what: str, path: Path, *, secret: bool) -> Iterator[Exposed]:
    """Report whether others may write a file, or read a secret one. Group read is fine: secrets are mounted so."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:  # whoever reads it reports this
        return
    if mode & stat.S_IWOTH:
        yield Exposed(what, path, writable=True, command=f"chmod o-w {path}")
    elif secret and mode & stat.S_IROTH:
        yield Exposed(what, path, writable=False, command=f"chmod o-r {path}")

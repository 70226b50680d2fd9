"""Whose files are whose, on a machine with several users.

What the service keeps (jobs, logs, work directories, locks, caches) is its user's alone: whoever may open a database or
a lock may also hold it, and stop every job. So its commands begin with the umask 077. What they publish is for others:
it gets the mode that the umask gives with which they were started. Files that it reads and that others could write or
read are told of at start, with the command that mends it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PRIVATE_UMASK = 0o077

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_given: list[int] = []  # the umask is the process's, and so is what it was


def keep_files_private() -> None:
    """Create files for this user only from now on."""
    before = os.umask(PRIVATE_UMASK)
    if not _given:
        _given.append(before)


def given_umask() -> int:
    """The umask that this process was started with, for those that it starts; -1 where it has kept it."""
    return _given[0] if _given else -1


def publish(path: Path) -> None:
    """Give a file or folder that was made here the mode that the user's umask gives."""
    if _given:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~_given[0])


def make_public_folder(folder: Path) -> None:
    """Make a folder, and those above it, with the mode that the user's umask gives, where they do not exist."""
    if not folder.exists():
        make_public_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        publish(folder)


@dataclass(frozen=True)
class Exposed:
    """A file or folder that others may use.

    Attributes:
        what: the setting that names it, or what it is.
        writable: others may write it; else they may read it.
        command: what the user types to mend it.
    """

    what: str
    path: Path
    writable: bool
    command: str

    def __str__(self) -> str:
        may = "write" if self.writable else "read"
        return f"{self.what} {self.path}: other users of this machine may {may} it; {self.command}"


def tighten(what: str, path: Path) -> Exposed | None:
    """Take the rights of others on a file or folder away; what they have where this user may not."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & _OTHERS:
            path.chmod(mode & ~_OTHERS)
    except FileNotFoundError:
        return None
    except OSError:  # somebody else's, as the mount point of a volume is
        writable = bool(mode & stat.S_IWOTH)
        return Exposed(what, path, writable, f"chmod go-rwx {path}") if mode & stat.S_IRWXO else None
    return None


def exposed(what: str, path: Path, *, secret: bool) -> Iterator[Exposed]:
    """Whether others may write a file, or read a secret one. Groups may read: so are secrets mounted."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:  # whoever reads it says so
        return
    if mode & stat.S_IWOTH:
        yield Exposed(what, path, writable=True, command=f"chmod o-w {path}")
    elif secret and mode & stat.S_IROTH:
        yield Exposed(what, path, writable=False, command=f"chmod o-r {path}")

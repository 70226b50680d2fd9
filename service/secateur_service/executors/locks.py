"""File locks of device slots and work directories.

The kernel drops a lock when the process that holds it ends, however it ends, so a lock is reliable where a file with
a process id is not. Workers hold the locks, not the server: the orphan of a killed server cannot share a device or a
work directory with its successor.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from secateur_service.errors import PreemptedError

_RETRY_SECONDS = 0.1


def slot_lock(data_dir: Path, slot: int) -> Path:
    """The file whose lock gives the right to use a device slot."""
    return data_dir / "slots" / f"{slot}.lock"


def hold_until_exit(path: Path, *, wait_seconds: float, reason: str) -> None:
    """Take the exclusive lock on an existing file or folder and keep it as long as this process lives.

    Raises:
        PreemptedError: with the given reason, if another process still holds it after `wait_seconds`.
    """
    descriptor = os.open(path, os.O_RDONLY)
    deadline = time.monotonic() + wait_seconds
    while not _acquire(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            os.close(descriptor)
            raise PreemptedError(
                f"another worker of this machine still holds {path}; the job waits until it has ended", reason=reason
            )
        time.sleep(_RETRY_SECONDS)


def is_free(path: Path) -> bool:
    """Whether no process holds the exclusive lock on a file; a file that does not exist is free."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        return _acquire(descriptor, fcntl.LOCK_SH)  # shared, so that two servers checking at once do not see each other
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

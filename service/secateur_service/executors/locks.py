"""File locks of device slots and work directories, and of what one server has for itself.

The kernel drops a lock when the process that holds it ends, however it ends, so a lock is reliable where a file with
a process id is not. Workers hold the locks, not the server: the orphan of a killed server cannot share a device or a
work directory with its successor. A server holds a lock of its own kind: one that its children do not inherit, so
that those of a killed server do not keep its successor from starting.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from secateur_service.errors import PreemptedError
from secateur_service.sizing import accelerators

_RETRY_SECONDS = 0.1


def locks_folder(data_dir: Path) -> Path:
    """The folder of the locks of device slots."""
    return data_dir / "slots"


def slot_locks(data_dir: Path, devices: Sequence[str], environment: Mapping[str, str]) -> list[Path]:
    """The files whose locks give the right to use device slots, named after what the slots are on.

    Processes that share a data folder may see different devices under the same name, such as `cuda:0`.

    Args:
        data_dir: the data folder.
        devices: a slot's device each, as torch names it.
        environment: of those who use them.
    """
    seen: Counter[str] = Counter()
    found = []
    for device in devices:
        name = accelerators.of_device(device, environment).name
        found.append(locks_folder(data_dir) / (f"{name}.{seen[name]}.lock" if seen[name] else f"{name}.lock"))
        seen[name] += 1
    return found


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


@contextlib.contextmanager
def only_server(path: Path) -> Iterator[int | None]:
    """Hold the lock of a server on a file, which is made if there is none.

    Returns:
        None where it is held from now on; the id of the process that holds it already otherwise, 0 if that is unknown.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of POSIX: of this process alone
        except (BlockingIOError, PermissionError):
            said = os.read(descriptor, 20)
            yield int(said) if said.isdigit() else 0
            return
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield None
    finally:
        os.close(descriptor)


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

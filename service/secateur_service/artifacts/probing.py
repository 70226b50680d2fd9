"""Whether a destination can be written: a marker is put there and removed again.

The marker always has the same name. So nothing piles up where the service may write but not remove, and two replicas
that try at the same time do each other no harm: the last one to put it removes it, or finds it gone.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from secateur_service.artifacts.directory import DirectoryStore
from secateur_service.artifacts.port import FORBIDDEN, REFUSED, ObjectStore
from secateur_service.errors import PermanentError

MARKER = ".secateur-writable"
"""The key of the marker."""

PROBE_RETRIES = 1
PROBE_READ_SECONDS = 5.0
"""How patient a store that is tried should be: somebody waits for the answer, and it is tried again later."""


def try_store(store: ObjectStore) -> None:
    """Put and remove a marker in a bucket.

    Raises:
        PermanentError: it cannot be put; the message says why, and the remedy.
        TransientError: the store does not answer.
    """
    store.put_bytes(MARKER, b"", "application/octet-stream")
    with contextlib.suppress(PermanentError):  # a result does not need the right to remove
        store.delete(MARKER)


def try_folder(folder: Path) -> None:
    """Write and remove a marker in a folder, or where it would be created: in its nearest parent that exists.

    Raises:
        PermanentError: it cannot be written; the message says why, and the remedy.
        ResourceError: there is no space left.
    """
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not place.is_dir():
        raise PermanentError(f"{place} is a file; choose a folder", reason=REFUSED)
    try:
        try_store(DirectoryStore(place))
    except PermanentError as error:
        if error.reason == FORBIDDEN:
            problem = f"the service's user may not write into {place}; change its owner or mode"
            raise PermanentError(problem, reason=FORBIDDEN) from error
        raise PermanentError(f"{place} cannot be written: {error.message}", reason=error.reason) from error

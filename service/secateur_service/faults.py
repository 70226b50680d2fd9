"""Named points at which a test can make a worker fail; they do nothing otherwise.

Nothing outside the process can arm one, neither a setting nor a variable nor a request: only a worker that a test
starts with a script of its own.
"""

from __future__ import annotations

from collections.abc import Callable

POINTS = (
    "worker.claimed",
    "job.fetched",
    "job.sampled",
    "block.written",  # its shard is on disk
    "block.recorded",  # and in the ledger
    "block.stored",  # and in the object store
    "job.pruned",
    "job.packaged",
    "publish.uploading",  # a file is in the object store
    "publish.uploaded",
    "publish.proposed",  # the manifest, under the name of its digest
    "publish.committed",  # its digest is in the job store
    "publish.published",  # manifest.json
    "worker.succeeded",  # the job has ended
)

_armed: dict[str, Callable[[], None]] = {}


def arm(point: str, action: Callable[[], None]) -> None:
    """Have `action` called whenever a point is reached.

    Raises:
        ValueError: there is no such point.
    """
    if point not in POINTS:
        raise ValueError(f"there is no fault point {point}; there are {', '.join(POINTS)}")
    _armed[point] = action


def reached(point: str) -> None:
    """Called by the code at a point."""
    if point in _armed:
        _armed[point]()

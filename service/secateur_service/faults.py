"""Named points where a test can make a worker fail; otherwise they do nothing.

Nothing outside the process can arm one: no setting, variable or request. Only a test can, by starting a worker with a
script of its own.
"""

from __future__ import annotations

from collections.abc import Callable

POINTS = (
    "worker.claimed",
    "job.fetched",
    "job.sampled",
    "job.shrunk",
    "budget.found",  # a part of what a budget needs, such as what a plan that was tried costs
    "job.planned",  # the blocks to remove are found
    "block.judged",  # after an epoch of its training
    "block.written",  # its shard is on disk
    "block.recorded",  # and it is in the ledger
    "block.stored",  # and it is in the object store
    "job.pruned",
    "job.packaged",
    "publish.uploading",  # a file is in the object store
    "publish.uploaded",
    "publish.proposed",  # the manifest is stored under the name of its digest
    "publish.committed",  # its digest is in the job store
    "publish.published",  # manifest.json is written
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
    """Mark that the code has reached a point; calls the armed action."""
    if point in _armed:
        _armed[point]()

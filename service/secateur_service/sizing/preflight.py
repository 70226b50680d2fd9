"""Checks before a job starts whether and how it fits on this machine: failing after hours would waste hours."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Collection
from itertools import combinations
from pathlib import Path

from secateur._text import size
from secateur_service.errors import ResourceError
from secateur_service.records.result import Available, Estimate, Shortage

# Memory estimates are up to a quarter above what jobs use (benchmarks/estimates.py).
_MEMORY_MARGIN = 1.25
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def find_room(
    estimate: Callable[[frozenset[Shortage]], Estimate],
    there: Available,
    *,
    on_device: bool,
    shortages: Collection[Shortage] = (),
) -> frozenset[Shortage]:
    """The kinds of memory that a job has to save to fit: the given ones, and as few more as possible.

    Args:
        estimate: the job's expected cost, given what it saves.
        there: what it can have.
        on_device: whether it computes on an accelerator.
        shortages: memory that was insufficient before.

    Raises:
        ResourceError: with reason DISK_TOO_SMALL, MEMORY_TOO_SMALL or DEVICE_MEMORY_TOO_SMALL: it does not fit at all.
    """
    kinds = [Shortage.DEVICE, Shortage.HOST] if on_device else [Shortage.HOST]
    *choices, last = [
        frozenset({*shortages, *more}) for count in range(len(kinds) + 1) for more in combinations(kinds, count)
    ]
    for choice in choices:
        with contextlib.suppress(ResourceError):
            _require_room(estimate(choice), there)
            return choice
    _require_room(estimate(last), there)
    return last


def _require_room(estimate: Estimate, there: Available) -> None:
    if estimate.disk_bytes > there.disk_bytes:
        raise ResourceError(
            f"the job is expected to need {size(estimate.disk_bytes)} of disk for its work, and there are "
            f"{size(there.disk_bytes)}; make room where the job works (below the data folder, or the "
            "output of `run`), or use a larger disk",
            reason="DISK_TOO_SMALL",
        )
    _require_memory("memory", "MEMORY_TOO_SMALL", estimate.peak_host_bytes, there.host_bytes)
    if there.device_bytes is not None:
        _require_memory("device memory", "DEVICE_MEMORY_TOO_SMALL", estimate.peak_device_bytes, there.device_bytes)


def least_memory(expected_bytes: int) -> int:
    """The least memory with which a job that is expected to need so much is tried: `find_room` refuses a byte less."""
    return math.ceil(expected_bytes / _MEMORY_MARGIN)


def available_here(workdir: Path, device_bytes: int | None) -> Available:
    """What this machine has for a job with this work directory; what an earlier attempt left there counts as free."""
    there = sum(file.stat().st_blocks * 512 for file in workdir.rglob("*") if file.is_file())
    return Available(host_memory_bytes(), device_bytes, shutil.disk_usage(workdir).free + there)


def host_memory_bytes() -> int:
    """Memory of this machine, or of the container if that has less."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in _CGROUP_LIMITS:
        path = Path(name)
        text = path.read_text(encoding="ascii").strip() if path.exists() else ""
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def _require_memory(kind: str, reason: str, expected: int, there: int) -> None:
    if expected > _MEMORY_MARGIN * there:
        raise ResourceError(
            f"the job is expected to need {size(expected)} of {kind}, and there are {size(there)}; use a "
            "larger machine, fewer calibration samples or shorter sequences, order true_sequential, or a smaller "
            "reconstruction.batch where blocks are trained",
            reason=reason,
        )

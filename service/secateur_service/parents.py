"""Processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SET_DEATH_SIGNAL = 1  # of prctl


def end_with_parent(parent: int | None = None) -> None:
    """Have this process killed when its parent ends, however it ends.

    Args:
        parent: the parent's id, for a process that may have been orphaned before it came here.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)

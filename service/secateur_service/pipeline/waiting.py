"""Waits for another thread while still checking whether to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")

_LOOK_SECONDS = 0.5


def wait_for(future: Future[T], check: Callable[[], None]) -> T:
    """The result of a future.

    Args:
        future: runs in another thread.
        check: called periodically while it runs; raises to stop waiting.
    """
    while not wait([future], timeout=_LOOK_SECONDS).done:
        check()
    return future.result()


def acquire(semaphore: threading.Semaphore, check: Callable[[], None]) -> None:
    """Acquire a semaphore; `check` is called periodically until then, and raises to stop waiting."""
    while not semaphore.acquire(timeout=_LOOK_SECONDS):
        check()
